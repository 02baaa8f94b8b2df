"""Guided matching of a pair with depth, along local maps and epipolar lines.

The local affine map of the nearest match predicts where a keypoint lies in image 1. An unmatched
keypoint near that place and near the epipolar line is its partner if their descriptors are mutually
the most similar ones there, and if the images agree there: the alignment must succeed and stay near
the epipolar line. The farther the nearest match, the less exact the prediction.

Finally, matches near their epipolar line move onto it if most matches agree: the line follows
from all of them and is more accurate than a single one. Deviations that neighbors have in common
are not noise. They show a geometry that no fundamental matrix describes, as with lens distortion;
no match moves then.

Shape legend: see `guided_pair`; I matches that agree with the epipolar geometry.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.epipolar import line_offsets, sampson_distances
from featherglue.geometry.local_optimization import optimize_fundamental
from featherglue.geometry.quick_estimates import quick_fundamental
from featherglue.matching.consensus import fit_local_maps
from featherglue.matching.fusion import joined, select
from featherglue.matching.guided_pair import Candidates, GuidedPair
from featherglue.matching.plane_fit import coherence, median_noise
from featherglue.types import Matches

Float = NDArray[np.float32]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SceneMatchingConfig:
    """Settings of guided matching by epipolar geometry. See `guided.GuidedConfig`.

    Attributes:
        num_rounds: number of rounds. The second starts with more matches, which are more accurate.
        min_matches: minimum number of matches that agree with the epipolar geometry.
        min_agreeing: minimum ratio of such matches.
        tolerance: px, maximum Sampson distance of a match that agrees, and of a pair of keypoints.
        num_neighbors: number of neighbors that determine a local map.
        radius, slope: px in image 1, maximum distance of a keypoint from the predicted place: the
            radius and `slope` times the distance of the nearest match in image 0.
        min_similarity: minimum cosine of the descriptors.
        penalty: reduction of the similarity at the maximum distance; it grows with the square.
        max_deviation: px, maximum Sampson distance of an aligned match.
        min_moving_matches, min_moving_ratio: minimum number and ratio of matches that agree with
            the geometry, to move points onto their epipolar lines.
        move_limit: maximum Sampson distance of a match that moves, relative to the median.
        min_move_limit: px, lower bound of this distance.
        max_coherence: maximum share of the deviations from the lines that neighbors have in
            common, to move points.
        coherence_neighbors: number of neighbors whose deviations are compared.
    """

    num_rounds: int = 2
    min_matches: int = 16
    min_agreeing: float = 0.4
    tolerance: float = 2.0
    num_neighbors: int = 12
    radius: float = 6.0
    slope: float = 0.25
    min_similarity: float = 0.5
    penalty: float = 0.5
    max_deviation: float = 1.0
    min_moving_matches: int = 32
    min_moving_ratio: float = 0.75
    move_limit: float = 3.0
    min_move_limit: float = 0.3
    max_coherence: float = 0.25
    coherence_neighbors: int = 6


def match_scene(
    pair: GuidedPair, matches: Matches, config: SceneMatchingConfig | None = None
) -> Matches:
    """Refine the matches of a pair again, add others, and move points onto their epipolar lines.

    Points move even where a high match threshold leaves no added matches.

    Args:
        pair: the features; without images, the matches are returned as they are.
        matches: M matches.
        config: settings; None uses the defaults.
    """
    config = config or SceneMatchingConfig()
    for _ in range(config.num_rounds):
        matches = pair.refine_again(matches)
        if pair.images is None or len(matches) < config.min_matches:
            break
        points = pair.reduced(matches)
        found = quick_fundamental(*points, config.tolerance)
        if found is None:
            break
        F = optimize_fundamental(found[0], *points, config.tolerance)
        agrees = sampson_distances(F, *points) < config.tolerance
        if agrees.sum() < max(config.min_matches, config.min_agreeing * len(matches)):
            break
        if pair.adds:
            matches = joined(matches, _guided(pair, matches, F, agrees, config))
        points0, points1 = pair.reduced(matches)
        moved = move_to_lines(F, points0, points1, config)
        if moved is not points1:
            changed = (moved != points1).any(1)[:, None]
            moved = moved / np.float32(pair.factors[1])
            matches = replace(matches, points1=np.where(changed, moved, matches.points1))
    return matches


def _guided(
    pair: GuidedPair, matches: Matches, F: Matrix, agrees: Mask, config: SceneMatchingConfig
) -> Matches:
    """G matches of unmatched keypoints, aligned."""
    free0, free1 = pair.unmatched(matches)
    keypoints0, keypoints1 = (
        keypoints[free] for keypoints, free in zip(pair.keypoints(), (free0, free1), strict=True)
    )
    known0, known1 = (points[agrees] for points in pair.reduced(matches))
    maps = fit_local_maps(known0, known1, min(config.num_neighbors, len(known0) - 1))
    nearest, distance = _nearest(keypoints0, known0)
    linear = maps.affine[nearest]
    places = known1[nearest] + np.einsum("fij,fj->fi", linear, keypoints0 - known0[nearest])
    near = Candidates.near(places, keypoints1, config.radius + config.slope * distance)
    near = near[
        sampson_distances(F, keypoints0[near.rows], keypoints1[near.columns]) < config.tolerance
    ]
    new, near = pair.assign(near, free0, free1, config.min_similarity, config.penalty)
    new = pair.align(new, keypoints1[near.columns], linear[near.rows])
    exact = sampson_distances(F, *pair.reduced(new)) < config.max_deviation
    return select(new, new.refined & exact)


def move_to_lines(F: Matrix, points0: Float, points1: Float, config: SceneMatchingConfig) -> Float:
    """Move matched points onto the epipolar lines that all matches determine.

    Points stay if too few matches agree with the geometry, if they are farther from their lines
    than the others, or if the deviations of neighbors are alike.

    Args:
        F: (3, 3) estimated fundamental matrix.
        points0, points1: (M, 2) matched points, px.
        config: settings.

    Returns:
        (M, 2) the new `points1`; the given array itself if no point moves.
    """
    F = optimize_fundamental(F, points0, points1, config.tolerance)
    distances = sampson_distances(F, points0, points1)
    num_agreeing = np.count_nonzero(distances < config.tolerance)
    if num_agreeing < max(config.min_moving_matches, config.min_moving_ratio * len(points0)):
        return points1
    noise = median_noise(distances, config.tolerance)
    limit = max(config.min_move_limit, config.move_limit * noise)
    offsets = line_offsets(F, points0, points1)
    # Near an epipole, a point can be far from its line in one image and close in the other.
    moves = (distances < limit) & (np.hypot(*offsets.T) < 2 * limit)
    if np.count_nonzero(moves) <= config.coherence_neighbors:
        return points1
    shared = coherence(points0[moves], offsets[moves], config.coherence_neighbors)
    if shared > config.max_coherence:
        return points1
    return np.where(moves[:, None], points1 + offsets, points1).astype(np.float32)


def _nearest(points: Float, others: Float) -> tuple[NDArray[np.int64], Float]:
    """Index (F,) of the nearest other point (I, 2) of each point (F, 2), and its distance, px."""
    # |a − b|² = |a|² − 2·a·b + |b|² in one matrix product; the mean is removed for its precision.
    mean = others.mean(0)
    products = (points - mean) @ (others - mean).T
    nearest = (np.square(others - mean).sum(1) - 2 * products).argmin(1)
    return nearest, np.asarray(np.hypot(*(points - others[nearest]).T), np.float32)

"""Guided matching of a pair with depth, along local maps and epipolar lines.

The local affine map of the nearest match predicts where a keypoint lies in image 1. An unmatched
keypoint near that place and near the epipolar line is its partner if their descriptors are mutually
the most similar ones there, and if the images agree there: the alignment must succeed and stay near
the epipolar line. The farther the nearest match, the less exact the prediction.

Shape legend: see `guided_pair`; I matches that agree with the epipolar geometry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.epipolar import sampson_distances
from featherglue.geometry.local_optimization import optimize_fundamental
from featherglue.geometry.quick_estimates import quick_fundamental
from featherglue.matching.consensus import fit_local_maps
from featherglue.matching.fusion import joined, select
from featherglue.matching.guided_pair import Candidates, GuidedPair
from featherglue.types import Matches

Float = NDArray[np.float32]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class SceneMatchingConfig:
    """Settings of guided matching by epipolar geometry. See `guided.GuidedConfig`.

    Attributes:
        min_matches: minimum number of matches that agree with the epipolar geometry.
        min_agreeing: minimum ratio of such matches.
        tolerance: px, maximum Sampson distance of a match that agrees, and of a pair of keypoints.
        num_neighbors: number of neighbors that determine a local map.
        radius, slope: px in image 1, maximum distance of a keypoint from the predicted place: the
            radius and `slope` times the distance of the nearest match in image 0.
        min_similarity: minimum cosine of the descriptors.
        penalty: reduction of the similarity at the maximum distance; it grows with the square.
        max_deviation: px, maximum Sampson distance of an aligned match.
    """

    min_matches: int = 16
    min_agreeing: float = 0.4
    tolerance: float = 2.0
    num_neighbors: int = 12
    radius: float = 6.0
    slope: float = 0.25
    min_similarity: float = 0.5
    penalty: float = 0.5
    max_deviation: float = 1.0


def match_scene(
    pair: GuidedPair, matches: Matches, config: SceneMatchingConfig | None = None
) -> Matches:
    """Refine the matches of a pair once more, and add others.

    Args:
        pair: the features; without images, the matches are returned as they are.
        matches: M matches.
        config: settings; None uses the defaults.
    """
    config = config or SceneMatchingConfig()
    matches = pair.refine_again(matches)
    if pair.images is None or not pair.adds or len(matches) < config.min_matches:
        return matches
    points0, points1 = pair.reduced(matches)
    found = quick_fundamental(points0, points1, config.tolerance)
    if found is None:
        return matches
    F = optimize_fundamental(found[0], points0, points1, config.tolerance)
    agrees = sampson_distances(F, points0, points1) < config.tolerance
    if agrees.sum() < max(config.min_matches, config.min_agreeing * len(matches)):
        return matches
    return joined(matches, _guided(pair, matches, F, agrees, config))


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


def _nearest(points: Float, others: Float) -> tuple[NDArray[np.int64], Float]:
    """Index (F,) of the nearest other point (I, 2) of each point (F, 2), and its distance, px."""
    # |a − b|² = |a|² − 2·a·b + |b|² in one matrix product; the mean is removed for its precision.
    mean = others.mean(0)
    products = (points - mean) @ (others - mean).T
    nearest = (np.square(others - mean).sum(1) - 2 * products).argmin(1)
    return nearest, np.asarray(np.hypot(*(points - others[nearest]).T), np.float32)

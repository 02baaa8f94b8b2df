"""Guided matching of a pair that one homography explains.

Matches are aligned again from the places that the homography predicts; those that stay away from it
are dropped. An unmatched keypoint belongs to an unmatched one near its predicted place if their
descriptors are mutually the most similar ones there. A partner that deviates more than other
matches, because the images do not agree there, as under changed light, stays if the keypoint itself
is close to its predicted place; the match gets the mean of both places.

Shape legend: see `guided_pair`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.local_optimization import optimize_homography
from featherglue.geometry.projection import warp_points
from featherglue.matching.fusion import joined, select
from featherglue.matching.guided_pair import Candidates, GuidedPair
from featherglue.matching.plane_fit import (
    PlaneConfig,
    coherence,
    deviations,
    fit_plane,
    median_noise,
)
from featherglue.types import Matches

Float = NDArray[np.float32]
Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PlaneMatchingConfig:
    """Settings of guided matching by a homography. See `guided.GuidedConfig`.

    Attributes:
        plane: when one homography explains a pair.
        max_deviation: maximum distance of a match from the homography, relative to the noise.
        min_deviation: px, a match nearer to the homography is never dropped.
        radius: px in image 1, maximum distance of a keypoint from the predicted place.
        min_similarity: minimum cosine of the descriptors.
        penalty: reduction of the similarity at a distance of `radius`; it grows with the square.
        max_distance: px, maximum distance of a keypoint from its predicted place, for an added
            match that deviates more than `max_deviation` after its alignment.
        min_moving_matches: minimum number of matches, to move points to where the homography of
            all of them maps their partners.
        max_coherence: maximum share of the deviations that neighbors have in common, to move
            points. It is lower than that of a plane: a little depth is lost by the move.
    """

    plane: PlaneConfig = field(default_factory=PlaneConfig)
    max_deviation: float = 3.0
    min_deviation: float = 0.3
    radius: float = 5.0
    min_similarity: float = 0.0
    penalty: float = 0.5
    max_distance: float = 2.0
    min_moving_matches: int = 24
    max_coherence: float = 0.1


def match_plane(
    pair: GuidedPair,
    matches: Matches,
    config: PlaneMatchingConfig | None = None,
    *,
    moves: bool = False,
) -> Matches | None:
    """Refine, filter and complete the matches of a pair by the homography that explains them.

    Args:
        pair: the features.
        matches: M matches.
        config: settings; None uses the defaults.
        moves: whether points finally move to where the homography of all matches maps their
            partners, if their deviations are noise.

    Returns:
        The new matches; None if no homography explains the pair.
    """
    config = config or PlaneMatchingConfig()
    plane = fit_plane(*pair.reduced(matches), config.plane)
    if plane is None:
        return None
    others = select(matches, plane.depth)
    matches = _aligned(pair, select(matches, ~plane.depth), plane.H)
    tolerance = config.plane.tolerance
    H = optimize_homography(plane.H, *pair.reduced(matches), tolerance)
    noise = median_noise(deviations(H, *pair.reduced(matches)), tolerance)
    limit = max(config.min_deviation, config.max_deviation * noise)
    matches = _near(pair, matches, H, limit)
    if pair.adds:
        new = _aligned(pair, _guided(pair, joined(matches, others), H, config), H)
        matches = joined(matches, _placed(pair, new, H, limit, config.max_distance))
    return joined(_moved(pair, matches, H, config) if moves else matches, others)


def _moved(pair: GuidedPair, matches: Matches, H: Matrix, config: PlaneMatchingConfig) -> Matches:
    """The matches, with points where the homography of all of them maps their partners.

    Points beyond the tolerance stay. All stay if few are within it, without images, or if neighbors
    deviate alike, which noise does not.
    """
    if pair.images is None:
        return matches
    points0, points1 = pair.reduced(matches)
    tolerance = config.plane.tolerance
    H = optimize_homography(H, points0, points1, tolerance)
    places = warp_points(points0, H)
    offsets = places - points1
    near = np.hypot(*offsets.T) < tolerance
    if np.count_nonzero(near) < config.min_moving_matches:
        return matches
    shared = coherence(points0[near], offsets[near], config.plane.num_neighbors)
    if shared > config.max_coherence:
        return matches
    moved = np.asarray(places / pair.factors[1], np.float32)
    points1 = np.where(near[:, None], moved, matches.points1)
    return replace(matches, points1=points1)


def _aligned(pair: GuidedPair, matches: Matches, H: Matrix) -> Matches:
    """Matches, aligned from where H predicts their points."""
    return pair.align(matches, *_local_maps(H, pair.reduced(matches)[0]))


def _local_maps(H: Matrix, points: Float) -> tuple[Float, Float]:
    """Where H maps points (M, 2), and the derivatives (M, 2, 2) there; not finite at infinity."""
    homogeneous = points.astype(np.float64) @ H[:, :2].T + H[:, 2]
    w = homogeneous[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        places = homogeneous[:, :2] / w
        linear = (H[:2, :2] - places[:, :, None] * H[2, :2]) / w[:, :, None]
    return np.asarray(places, np.float32), np.ascontiguousarray(linear, np.float32)


def _near(pair: GuidedPair, matches: Matches, H: Matrix, limit: float) -> Matches:
    """The matches that deviate from a homography by less than `limit` px."""
    return select(matches, deviations(H, *pair.reduced(matches)) < limit)


def _placed(
    pair: GuidedPair, new: Matches, H: Matrix, limit: float, max_distance: float
) -> Matches:
    """The added matches near a homography, or with keypoints near it, which get a mean place."""
    if pair.images is None:
        return _near(pair, new, H, limit)
    points0, points1 = pair.reduced(new)
    places = warp_points(points0, H)
    keypoints = pair.keypoints()[1][new.indices[:, 1]]
    near = np.hypot(*(points1 - places).T) < limit
    close = np.hypot(*(keypoints - places).T) < max_distance
    means = (keypoints + places) / 2 / pair.factors[1]
    points1 = np.where(near[:, None], new.points1, means).astype(np.float32)
    return select(replace(new, points1=points1, refined=new.refined & near), near | close)


def _guided(pair: GuidedPair, matches: Matches, H: Matrix, config: PlaneMatchingConfig) -> Matches:
    """G matches of unmatched keypoints near the places that H predicts, not aligned."""
    free0, free1 = pair.unmatched(matches)
    keypoints0, keypoints1 = pair.keypoints()
    places = warp_points(keypoints0[free0], H)
    near = Candidates.near(places, keypoints1[free1], config.radius)
    return pair.assign(near, free0, free1, config.min_similarity, config.penalty)[0]

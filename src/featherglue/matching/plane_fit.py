"""Whether one homography explains the matches of a pair, and how accurately.

A plane, a distant scene and a camera that only rotated give matches that obey one homography. The
matches of a scene with depth deviate from any homography, but the deviations of neighbors are
alike: they are parallax. The deviations of matches of a plane are noise, which neighbors do not
share. This separates both better than the number of inliers, because the matches of difficult
pairs are inexact.

Shape legend: M matches, k neighbors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.epipolar import sampson_distances
from featherglue.geometry.local_optimization import optimize_fundamental, optimize_homography
from featherglue.geometry.projection import warp_points
from featherglue.geometry.quick_estimates import quick_fundamental, quick_homography
from featherglue.matching.consensus import nearest_points

Float = NDArray[np.float32]
Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class PlaneConfig:
    """When one homography explains a pair. The defaults were chosen on training photographs.

    Attributes:
        min_matches: minimum number of matches.
        tolerance: px, inlier threshold of the homography.
        min_noise: px, lower bound of the noise in the following conditions.
        agreement: maximum deviation of a match that agrees, relative to the noise.
        min_explained: minimum ratio of matches that agree.
        num_neighbors: k, number of neighbors whose deviations are compared.
        max_coherence: maximum share of a deviation that the neighbors have in common.
        max_deviation: deviation from which on all count the same in the coherence, relative to
            the noise: wrong matches.
        depth: minimum deviation of a match that shows depth, relative to the noise, and its
            maximum Sampson distance in the same unit.
        min_depth: ratio of such matches up to which they are wrong ones that agree with an
            epipolar geometry by chance.
    """

    min_matches: int = 16
    tolerance: float = 3.0
    min_noise: float = 0.3
    agreement: float = 3.0
    min_explained: float = 0.5
    num_neighbors: int = 6
    max_coherence: float = 0.25
    max_deviation: float = 6.0
    depth: tuple[float, float] = (4.0, 1.5)
    min_depth: float = 0.08


@dataclass(frozen=True, eq=False)
class Plane:
    """The homography that explains a pair.

    Attributes:
        H: (3, 3) float64, from image 0 to image 1.
        noise: px, median deviation of the matches within the tolerance.
        depth: (M,) bool, the matches that deviate from it, but agree with an epipolar geometry.
    """

    H: Matrix
    noise: float
    depth: Mask


def fit_plane(points0: Float, points1: Float, config: PlaneConfig | None = None) -> Plane | None:
    """The homography that explains the matches of a pair; None if none explains them.

    Args:
        points0, points1: (M, 2) float32 (x, y) pixels.
        config: settings; None uses the defaults.
    """
    config = config or PlaneConfig()
    if len(points0) < config.min_matches:
        return None
    found = quick_homography(points0, points1, config.tolerance)
    if found is None or found[1].mean() < config.min_explained / 2:
        return None
    H = optimize_homography(found[0], points0, points1, config.tolerance)
    offsets = points1 - warp_points(points0, H)
    deviation = np.hypot(*offsets.T)
    median = median_noise(deviation, config.tolerance)
    noise = max(median, config.min_noise)
    agrees = deviation < config.agreement * noise
    if not agrees.mean() > config.min_explained:
        return None
    longest = config.max_deviation * noise
    with np.errstate(invalid="ignore"):  # points at infinity
        offsets *= np.minimum(1, longest / np.maximum(deviation, 1e-9))[:, None]
    offsets[~np.isfinite(offsets).all(1)] = 0
    if coherence(points0, offsets, config.num_neighbors) > config.max_coherence:
        return None
    return Plane(H, median, _depth(points0, points1, deviation, max(noise, 0.5), config))


def _depth(
    points0: Float, points1: Float, deviation: Matrix, noise: float, config: PlaneConfig
) -> Mask:
    """The matches (M,) that show depth."""
    off = ~(deviation < config.depth[0] * noise)
    none = np.zeros(len(off), np.bool_)
    if off.mean() <= config.min_depth:
        return none
    found = quick_fundamental(points0, points1, config.tolerance)
    if found is None:
        return none
    F = optimize_fundamental(found[0], points0, points1, config.tolerance)
    shown = off & (sampson_distances(F, points0, points1) < config.depth[1] * noise)
    return shown if shown.mean() > config.min_depth else none


def median_noise(deviation: Matrix, tolerance: float) -> float:
    """Median of the deviations (M,) within `tolerance`, px; `tolerance` if there are none."""
    near = deviation < tolerance
    return float(np.median(deviation[near])) if near.any() else tolerance


def deviations(H: Matrix, points0: Float, points1: Float) -> Matrix:
    """Distances (M,) in image 1 of matches from a homography, px; NaN beyond the horizon."""
    return np.asarray(np.hypot(*(points1 - warp_points(points0, H)).T))


def coherence(points: Float, vectors: Matrix, num_neighbors: int) -> float:
    """Share of vectors at points that their neighbors have in common.

    Args:
        points: (M, 2) float32, M > `num_neighbors`.
        vectors: (M, 2), one at each point.
        num_neighbors: k, number of nearest other points.

    Returns:
        About 1 for a smooth field, about 0 for noise.
    """
    indices, _ = nearest_points(points, num_neighbors)
    common = np.median(vectors[indices], axis=0)
    return float((vectors * common).sum() / max(np.square(vectors).sum(), 1e-12))

"""Whether a robust estimate has more inliers than chance gives.

RANSAC finds a model for any matches: with enough samples some model fits four or five of them. An
a-contrario test decides whether the support of a model is evidence (Moisan and Stival, A
Probabilistic Criterion to Detect Rigid Point Matches, 2004; Moisan, Moulon and Monasse, Automatic
Homographic Registration of a Pair of Images, 2012). It compares the number of inliers with that of
random matches:

    NFA = N · C(M, s) · C(M − s, k − s) · p^(k − s)

is an upper bound of the expected number of models with k inliers among M random matches, where s
matches determine at most N models and p is the probability that a random match is an inlier. False
matches are not uniform: matchers prefer the same few places. p is thus the larger one of the
probability for uniform points and the ratio of inliers among the wrong pairs of the given points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import EstimationError, counted
from featherglue.geometry.epipolar import homogeneous
from featherglue.geometry.projection import warp_points

Matrix = NDArray[np.float64]
Size = tuple[int, int]

MAX_FALSE_ALARMS = 0.02
"""Default of the maximum number of false alarms. It accepts fewer than 1 % of pairs of different
pictures."""
_MAX_ROWS = 64  # points of image 1 whose wrong pairs estimate the probability


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Minimal samples of a model.

    Attributes:
        name: name of the model, for messages.
        size: number of matches that determine a model.
        models: maximum number of models that a sample gives.
    """

    name: str
    size: int
    models: int


HOMOGRAPHY = Sampling(name="homography", size=4, models=1)
FUNDAMENTAL = Sampling(name="fundamental matrix", size=7, models=3)
POSE = Sampling(name="relative pose", size=5, models=10)


def check_homography_support(
    H: Matrix,
    points0: Matrix,
    points1: Matrix,
    num_inliers: int,
    *,
    threshold: float,
    size1: Size | None,
    max_false_alarms: float | None,
) -> None:
    """Raise EstimationError if random matches give a homography with as many inliers.

    Args:
        H: (3, 3) estimate.
        points0, points1: (M, 2) matched pixels.
        num_inliers: number of inliers of the estimate.
        threshold: px, maximum distance of an inlier in image 1.
        size1: (width, height) of image 1; None for the bounding box of its points.
        max_false_alarms: maximum expected number of such homographies; None skips the test.
    """
    if max_false_alarms is None:
        return
    width, height = _extent(points1, size1)
    uniform = math.pi * threshold**2 / (width * height)
    rows = _rows(len(points1))
    mapped = warp_points(points0, H)
    offsets = points1[rows, None] - mapped
    near = np.square(offsets).sum(2) <= threshold**2
    probability = max(uniform, _wrong_pairs(near, rows))
    _require(HOMOGRAPHY, len(points0), num_inliers, probability, max_false_alarms)


def check_epipolar_support(
    F: Matrix,
    points0: Matrix,
    points1: Matrix,
    num_inliers: int,
    sampling: Sampling,
    *,
    threshold: float,
    size1: Size | None,
    max_false_alarms: float | None,
) -> None:
    """Raise EstimationError if random matches give an epipolar geometry with as many inliers.

    Args:
        F: (3, 3) fundamental matrix of the estimate.
        points0, points1, num_inliers, size1, max_false_alarms: as for `check_homography_support`.
        sampling: minimal samples of the model.
        threshold: px, maximum Sampson distance of an inlier.
    """
    if max_false_alarms is None:
        return
    width, height = _extent(points1, size1)
    # A Sampson distance is about 1/√2 of the distance from the epipolar line.
    uniform = 2 * math.sqrt(2) * threshold * math.hypot(width, height) / (width * height)
    rows = _rows(len(points1))
    first, second = homogeneous(points0), homogeneous(points1[rows])
    lines1, lines0 = first @ F.T, second @ F
    squares = np.square(lines1[:, :2]).sum(1) + np.square(lines0[:, None, :2]).sum(2)
    near = np.square(second @ lines1.T) <= threshold**2 * squares
    probability = max(uniform, _wrong_pairs(near, rows))
    _require(sampling, len(points0), num_inliers, probability, max_false_alarms)


def log_false_alarms(
    sampling: Sampling, num_matches: int, num_inliers: int, probability: float
) -> float:
    """Natural logarithm of the expected number of models with this support by chance.

    Args:
        sampling: minimal samples of the model.
        num_matches: M, number of matches.
        num_inliers: k, number of inliers.
        probability: p, of an inlier among random matches, above 0.

    Returns:
        The logarithm; infinite with no more inliers than a minimal sample has.
    """
    size = sampling.size
    if num_inliers <= size:
        return math.inf
    return (
        math.log(sampling.models)
        + _log_binomial(num_matches, size)
        + _log_binomial(num_matches - size, num_inliers - size)
        + (num_inliers - size) * math.log(min(probability, 1.0))
    )


def _require(
    sampling: Sampling, num_matches: int, num_inliers: int, probability: float, maximum: float
) -> None:
    found = log_false_alarms(sampling, num_matches, num_inliers, probability)
    if not found <= math.log(maximum):
        raise EstimationError(
            f"no consistent geometry: a {sampling.name} has {counted(num_inliers, 'inlier')} of "
            f"{counted(num_matches, 'match', 'matches')}, no more than matches of different "
            "pictures have (`max_false_alarms=None` accepts it)"
        )


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _extent(points: Matrix, size: Size | None) -> tuple[float, float]:
    if size is not None:
        return size
    width, height = np.ptp(points, axis=0)
    return max(float(width), 1.0), max(float(height), 1.0)


def _rows(count: int) -> NDArray[np.int64]:
    """At most 64 indices, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_ROWS)).astype(np.int64))


def _wrong_pairs(near: NDArray[np.bool_], rows: NDArray[np.int64]) -> float:
    """Ratio of inliers among the pairs (R, M) that are not matches, by the rule of succession."""
    matched = np.count_nonzero(near[np.arange(len(rows)), rows])
    inliers = np.count_nonzero(near) - matched
    return (inliers + 1) / (near.size - len(rows) + 1)

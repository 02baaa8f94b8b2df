"""Measures of matches, poses and detectors, in NumPy alone.

Points are (x, y) pixels, sizes are (width, height), H (3, 3) maps image 0 to image 1. Shares lie
in [0, 1]; only `auc` and `accuracy` speak in percent, as the field's tables do.

Shape legend: N0, N1 keypoints; M matches; P pairs of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError

Array = NDArray[np.float64]
Floats = NDArray[np.floating]
Index = NDArray[np.int64]
Size = tuple[int, int]
_ROWS_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class MatchMetrics:
    """How good the matches of a pair are under a known homography.

    Attributes:
        precision: correct matches / matches; 0 where there are none.
        recall: true correspondences that were matched / all; 0 where there are none.
        matching_score: correct matches / mean number of the keypoints of either image whose
            place lies inside the other image; 0 where there are none.
        matches, correspondences: how many matches and how many true correspondences.
    """

    precision: float
    recall: float
    matching_score: float
    matches: int
    correspondences: int


@dataclass(frozen=True, kw_only=True)
class DetectorMetrics:
    """How well keypoints are found again (DeTone et al. 2018, appendix).

    Attributes:
        repeatability: keypoints of both images, visible in the other one, that have a keypoint
            there within the threshold / all such keypoints; 0 where there are none.
        localisation_error: px, mean distance of those that have one; NaN where none has.
    """

    repeatability: float
    localisation_error: float


def recall_curve(errors: Sequence[float] | Floats) -> tuple[Array, Array]:
    """Errors in ascending order and the share of pairs that reach them, both from (0, 0).

    Args:
        errors: (P,), at least 0; infinite for pairs that failed.

    Returns:
        errors (P+1,) and recall (P+1,) in [0, 1].

    Raises:
        UsageError: no errors, or one that is negative or NaN.
    """
    values = np.sort(np.asarray(errors, np.float64))
    if values.ndim != 1 or len(values) == 0:
        raise UsageError("errors must be (P,), at least one")
    if not (values >= 0).all():
        raise UsageError("errors must be at least 0 and not NaN; a failure is infinite")
    recall = (np.arange(len(values)) + 1) / len(values)
    return np.r_[0.0, values], np.r_[0.0, recall]


def auc(errors: Sequence[float] | Floats, thresholds: Sequence[float]) -> list[float]:
    """Area under the recall curve up to each threshold, in percent of the threshold.

    The trapezoids of SuperGlue's `pose_auc` (Sarlin et al. 2020): straight lines between errors,
    level from the last error below the threshold.

    Raises:
        UsageError: as `recall_curve`, or a threshold that is not positive.
    """
    x, y = recall_curve(errors)
    areas = []
    for threshold in thresholds:
        if not threshold > 0:
            raise UsageError(f"a threshold must be positive, not {threshold}")
        last = int(np.searchsorted(x, threshold))
        e, r = np.r_[x[:last], threshold], np.r_[y[:last], y[last - 1]]
        area = float(np.sum(np.diff(e) * (r[1:] + r[:-1]) / 2))
        areas.append(100 * area / threshold)
    return areas


def accuracy(errors: Sequence[float] | Floats, thresholds: Sequence[float]) -> list[float]:
    """Percent of pairs whose error is at most each threshold."""
    x, _ = recall_curve(errors)
    return [100 * float(np.mean(x[1:] <= threshold)) for threshold in thresholds]


def warp(points: Floats, H: Array) -> Array:
    """Points (N, 2) mapped by H; NaN where H gives no finite point."""
    mapped = np.asarray(points, np.float64) @ H[:, :2].T + H[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        result = mapped[:, :2] / mapped[:, 2:]
    return np.where(np.isfinite(result), result, np.nan)


def reprojection_errors(points0: Floats, points1: Floats, H: Array) -> Array:
    """Distance (M,) px in image 1 between H(points0) and points1; infinite where H has no point."""
    errors = np.linalg.norm(warp(points0, H) - points1, axis=1)
    return np.where(np.isnan(errors), np.inf, errors)


def inside(points: Floats, size: Size) -> NDArray[np.bool_]:
    """Which points (N,) lie between the centres of the outermost pixels of an image."""
    limit = np.asarray(size) - 1
    return np.asarray(((points >= 0) & (points <= limit)).all(1))


def nearest(queries: Floats, points: Floats) -> tuple[Index, Array]:
    """The nearest point of each query: index (N,), the first of equals, and distance (N,).

    A query with NaN, or without any points, has the index −1 and an infinite distance.
    """
    index = np.full(len(queries), -1, np.int64)
    distance = np.full(len(queries), np.inf)
    valid = np.flatnonzero(~np.isnan(queries).any(1))
    if len(points) == 0:
        return index, distance
    for start in range(0, len(valid), _ROWS_AT_ONCE):
        rows = valid[start : start + _ROWS_AT_ONCE]
        dx = queries[rows, 0, None] - points[:, 0]
        dy = queries[rows, 1, None] - points[:, 1]
        squared = np.nan_to_num(dx * dx + dy * dy, nan=np.inf)
        index[rows] = squared.argmin(1)
        distance[rows] = np.sqrt(squared.min(1))
    return index, distance


def true_correspondences(
    keypoints0: Floats, keypoints1: Floats, H: Array, size0: Size, size1: Size, threshold: float = 3
) -> Index:
    """Pairs of keypoints that show the same point: indices (C, 2).

    Each is the other's nearest in image 1 once those of image 0 are mapped there, within
    `threshold` px, and each is visible inside the other image.
    """
    there, back = warp(keypoints0, H), warp(keypoints1, _inverse(H))
    partner0, distance = nearest(there, np.asarray(keypoints1, np.float64))
    partner1, _ = nearest(np.asarray(keypoints1, np.float64), there)
    first = np.flatnonzero((distance <= threshold) & inside(there, size1))
    second = partner0[first]
    mutual = (partner1[second] == first) & inside(back, size0)[second]
    return np.stack((first[mutual], second[mutual]), 1)


def homography_match_metrics(
    keypoints0: Floats,
    keypoints1: Floats,
    indices: Index,
    points0: Floats,
    points1: Floats,
    H: Array,
    size0: Size,
    size1: Size,
    threshold: float = 3,
) -> MatchMetrics:
    """Precision, recall and matching score of the matches of one pair.

    Args:
        keypoints0, keypoints1: (N0, 2) and (N1, 2), all that were detected.
        indices: (M, 2) matches, by which recall is judged: a true correspondence (i, j) is found
            if (i, j) is among them.
        points0, points1: (M, 2) the matched points, refined or not, by which a match is judged:
            it is correct if H takes the first to within `threshold` px of the second.
    """
    correct = int(np.count_nonzero(reprojection_errors(points0, points1, H) <= threshold))
    truth = true_correspondences(keypoints0, keypoints1, H, size0, size1, threshold)
    matched = set(map(tuple, np.asarray(indices).tolist()))
    found = sum(tuple(pair) in matched for pair in truth.tolist())
    seen0 = np.count_nonzero(inside(warp(keypoints0, H), size1))
    seen1 = np.count_nonzero(inside(warp(keypoints1, _inverse(H)), size0))
    return MatchMetrics(
        precision=_share(correct, len(points0)),
        recall=_share(found, len(truth)),
        matching_score=_share(correct, (seen0 + seen1) / 2),
        matches=len(points0),
        correspondences=len(truth),
    )


def matching_accuracy(
    points0: Floats, points1: Floats, H: Array, thresholds: Sequence[float]
) -> list[float]:
    """Share of the matches within each threshold (px) of the truth; 0 without matches.

    Its mean over pairs is the mean matching accuracy (MMA; Dusmanu et al. 2019).
    """
    errors = reprojection_errors(points0, points1, H)
    return [_share(int(np.count_nonzero(errors <= t)), len(errors)) for t in thresholds]


def detector_metrics(
    keypoints0: Floats, keypoints1: Floats, H: Array, size0: Size, size1: Size, threshold: float = 3
) -> DetectorMetrics:
    """Repeatability and localisation error, with distances (px) taken in image 1."""
    there = warp(keypoints0, H)
    there = there[inside(there, size1)]
    kept = inside(warp(keypoints1, _inverse(H)), size0)
    here = np.asarray(keypoints1, np.float64)[kept]
    distances = np.concatenate((nearest(there, here)[1], nearest(here, there)[1]))
    close = distances[distances <= threshold]
    return DetectorMetrics(
        repeatability=_share(len(close), len(distances)),
        localisation_error=float(close.mean()) if len(close) else float("nan"),
    )


def epipolar_errors(rays0: Floats, rays1: Floats, T_0to1: Array) -> Array:
    """Symmetric squared distance to the epipolar lines, as SuperGlue's evaluation has it.

    Args:
        rays0, rays1: (M, 2) matched points in normalised coordinates (x/z, y/z).
        T_0to1: (4, 4) or (3, 4) pose. Where its translation is 0 there are no epipolar lines,
            and the symmetric squared distance to the rotated ray is taken instead.

    Returns:
        (M,), without a unit, at least 0; infinite for a point on an epipole or behind a camera.
    """
    R, t = np.asarray(T_0to1[:3, :3], np.float64), np.asarray(T_0to1[:3, 3], np.float64)
    first, second = (
        np.c_[np.asarray(rays, np.float64), np.ones(len(rays))] for rays in (rays0, rays1)
    )
    if not t.any():
        gap1 = warp(rays0, R) - rays1
        gap0 = warp(rays1, R.T) - rays0
        errors = (gap0**2).sum(1) + (gap1**2).sum(1)
    else:
        skew = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
        E = skew @ R
        line1, line0 = first @ E.T, second @ E
        residual = (second * line1).sum(1) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = residual * (1 / (line1[:, :2] ** 2).sum(1) + 1 / (line0[:, :2] ** 2).sum(1))
    return np.where(np.isnan(errors), np.inf, errors)


def _inverse(H: Array) -> Array:
    return np.asarray(np.linalg.inv(H), np.float64)


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

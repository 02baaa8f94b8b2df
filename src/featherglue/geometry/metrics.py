"""Metrics of matches, detectors and lists of errors.

Points are (x, y) pixels, sizes are (width, height), H (3, 3) maps image 0 to image 1. `auc` and
`accuracy` return percentages; all other ratios lie in [0, 1].

Shape legend: N0, N1 keypoints, M matches, P pairs of images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError
from featherglue.geometry.projection import reprojection_errors, warp_points

Array = NDArray[np.float64]
Floats = NDArray[np.floating]
Index = NDArray[np.int64]
Size = tuple[int, int]
_CHUNK_ROWS = 512


@dataclass(frozen=True, kw_only=True)
class MatchMetrics:
    """Quality of the matches of a pair under a known homography.

    Attributes:
        precision: correct matches / matches; 0 without matches.
        recall: matched true correspondences / all true correspondences; 0 without any.
        matching_score: correct matches / mean number of keypoints per image that are visible in
            the other image; 0 without any.
        matches: number of matches.
        correspondences: number of true correspondences.
    """

    precision: float
    recall: float
    matching_score: float
    matches: int
    correspondences: int


@dataclass(frozen=True, kw_only=True)
class DetectorMetrics:
    """Quality of a detector under a known homography (DeTone et al. 2018, appendix).

    Attributes:
        repeatability: ratio of the keypoints that have a keypoint of the other image within the
            threshold, of all that are visible in both images; 0 without any.
        localization_error: px, mean distance of repeated keypoints; NaN without any.
    """

    repeatability: float
    localization_error: float


def recall_curve(errors: Sequence[float] | Floats) -> tuple[Array, Array]:
    """Cumulative distribution of errors, starting at (0, 0).

    Args:
        errors: (P,), at least 0; infinite for pairs that failed.

    Returns:
        Sorted errors (P+1,), and the ratio (P+1,) of pairs with at most that error.

    Raises:
        UsageError: no errors, or one that is negative or NaN.
    """
    values = np.sort(np.asarray(errors, np.float64))
    if values.ndim != 1 or len(values) == 0:
        raise UsageError("errors must be (P,) with P ≥ 1")
    if not (values >= 0).all():
        raise UsageError("errors must be at least 0 and not NaN; use infinity for a failed pair")
    recall = (np.arange(len(values)) + 1) / len(values)
    return np.r_[0.0, values], np.r_[0.0, recall]


def auc(errors: Sequence[float] | Floats, thresholds: Sequence[float]) -> list[float]:
    """Area under the recall curve up to each threshold, in percent of the threshold.

    The trapezoidal rule of SuperGlue's `pose_auc` (Sarlin et al. 2020): linear between errors,
    constant from the last error below the threshold.

    Args:
        errors: (P,), at least 0; infinite for pairs that failed.
        thresholds: in the unit of the errors.

    Raises:
        UsageError: invalid errors, or a threshold that is not positive.
    """
    x, y = recall_curve(errors)
    areas = []
    for threshold in thresholds:
        if not threshold > 0:
            raise UsageError(f"thresholds must be positive, not {threshold}")
        last = int(np.searchsorted(x, threshold))
        e, r = np.r_[x[:last], threshold], np.r_[y[:last], y[last - 1]]
        area = float(np.sum(np.diff(e) * (r[1:] + r[:-1]) / 2))
        areas.append(100 * area / threshold)
    return areas


def accuracy(errors: Sequence[float] | Floats, thresholds: Sequence[float]) -> list[float]:
    """Percentage of pairs whose error is at most each threshold."""
    x, _ = recall_curve(errors)
    return [100 * float(np.mean(x[1:] <= threshold)) for threshold in thresholds]


def inside_image(points: Floats, size: Size) -> NDArray[np.bool_]:
    """Mask (N,) of the points between the centers of the outermost pixels of an image."""
    limit = np.asarray(size) - 1
    return np.asarray(((points >= 0) & (points <= limit)).all(1))


def nearest_points(queries: Floats, points: Floats) -> tuple[Index, Array]:
    """The nearest point of each query.

    Args:
        queries: (Q, 2).
        points: (N, 2).

    Returns:
        Index (Q,) of the nearest point, the first of equally near ones, and its distance (Q,).
        A query with NaN, or without any points, has the index −1 and an infinite distance.
    """
    index = np.full(len(queries), -1, np.int64)
    distance = np.full(len(queries), np.inf)
    valid = np.flatnonzero(~np.isnan(queries).any(1))
    if len(points) == 0:
        return index, distance
    for start in range(0, len(valid), _CHUNK_ROWS):
        rows = valid[start : start + _CHUNK_ROWS]
        dx = queries[rows, 0, None] - points[:, 0]
        dy = queries[rows, 1, None] - points[:, 1]
        squared = np.nan_to_num(dx * dx + dy * dy, nan=np.inf)
        index[rows] = squared.argmin(1)
        distance[rows] = np.sqrt(squared.min(1))
    return index, distance


def true_correspondences(
    keypoints0: Floats, keypoints1: Floats, H: Array, size0: Size, size1: Size, threshold: float = 3
) -> Index:
    """Pairs of keypoints of the same point of the scene.

    Keypoints correspond if they are mutual nearest neighbors in image 1, at most `threshold` px
    apart, and each is visible in the other image.

    Args:
        keypoints0, keypoints1: (N0, 2) and (N1, 2).
        H: (3, 3) true H_0to1.
        size0, size1: (width, height) of the images.
        threshold: px.

    Returns:
        (C, 2) int64 indices into both sets.
    """
    warped0, warped1 = warp_points(keypoints0, H), warp_points(keypoints1, _inverse(H))
    partner0, distance = nearest_points(warped0, np.asarray(keypoints1, np.float64))
    partner1, _ = nearest_points(np.asarray(keypoints1, np.float64), warped0)
    first = np.flatnonzero((distance <= threshold) & inside_image(warped0, size1))
    second = partner0[first]
    mutual = (partner1[second] == first) & inside_image(warped1, size0)[second]
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
        keypoints0, keypoints1: (N0, 2) and (N1, 2), all detected keypoints.
        indices: (M, 2) matches. Recall counts the true correspondences (i, j) among them.
        points0, points1: (M, 2) matched points, refined or not. A match is correct if H maps the
            first to within `threshold` px of the second.
        H: (3, 3) true H_0to1.
        size0, size1: (width, height) of the images.
        threshold: px.
    """
    correct = int(np.count_nonzero(reprojection_errors(points0, points1, H) <= threshold))
    truth = true_correspondences(keypoints0, keypoints1, H, size0, size1, threshold)
    matched = set(map(tuple, np.asarray(indices).tolist()))
    found = sum(tuple(pair) in matched for pair in truth.tolist())
    visible0 = np.count_nonzero(inside_image(warp_points(keypoints0, H), size1))
    visible1 = np.count_nonzero(inside_image(warp_points(keypoints1, _inverse(H)), size0))
    return MatchMetrics(
        precision=_ratio(correct, len(points0)),
        recall=_ratio(found, len(truth)),
        matching_score=_ratio(correct, (visible0 + visible1) / 2),
        matches=len(points0),
        correspondences=len(truth),
    )


def matching_accuracy(
    points0: Floats, points1: Floats, H: Array, thresholds: Sequence[float]
) -> list[float]:
    """Ratio of matches within each threshold (px) of the true position; 0 without matches.

    Its mean over pairs is the mean matching accuracy (MMA, Dusmanu et al. 2019).
    """
    errors = reprojection_errors(points0, points1, H)
    return [_ratio(int(np.count_nonzero(errors <= t)), len(errors)) for t in thresholds]


def detector_metrics(
    keypoints0: Floats, keypoints1: Floats, H: Array, size0: Size, size1: Size, threshold: float = 3
) -> DetectorMetrics:
    """Repeatability and localization error; distances in px of image 1."""
    warped0 = warp_points(keypoints0, H)
    warped0 = warped0[inside_image(warped0, size1)]
    visible1 = inside_image(warp_points(keypoints1, _inverse(H)), size0)
    points1 = np.asarray(keypoints1, np.float64)[visible1]
    distances = np.concatenate(
        (nearest_points(warped0, points1)[1], nearest_points(points1, warped0)[1])
    )
    close = distances[distances <= threshold]
    return DetectorMetrics(
        repeatability=_ratio(len(close), len(distances)),
        localization_error=float(close.mean()) if len(close) else float("nan"),
    )


def _inverse(H: Array) -> Array:
    return np.asarray(np.linalg.inv(H), np.float64)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0

"""Metrics against loops, small cases and the published definitions."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scenes import project

from featherglue.errors import UsageError
from featherglue.geometry import metrics

Array = NDArray[Any]
SIZE0, SIZE1 = (160, 120), (150, 130)


def published_pose_auc(errors: list[float], thresholds: list[float]) -> list[float]:
    """SuperGlue's `pose_auc`, models/utils.py, with its trapezoid written out."""
    order = np.argsort(errors)
    sorted_errors = np.array(errors.copy())[order]
    recall = (np.arange(len(sorted_errors)) + 1) / len(sorted_errors)
    sorted_errors = np.r_[0.0, sorted_errors]
    recall = np.r_[0.0, recall]
    aucs = []
    for t in thresholds:
        last_index = np.searchsorted(sorted_errors, t)
        r = np.r_[recall[:last_index], recall[last_index - 1]]
        e = np.r_[sorted_errors[:last_index], t]
        area = sum((e[i + 1] - e[i]) * (r[i + 1] + r[i]) / 2 for i in range(len(e) - 1))
        aucs.append(100 * area / t)
    return aucs


@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_the_published_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = rng.exponential(8, 40)
    errors[:4], errors[4:7], errors[7], errors[8:10] = np.inf, 5.0, 0.0, 2.5
    values = list(rng.permutation(errors))
    thresholds = [1, 2.5, 5, 10, 25]
    assert metrics.auc(values, thresholds) == pytest.approx(published_pose_auc(values, thresholds))


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ([0.0, 0.0], 100.0),
        ([np.inf, np.inf], 0.0),
        ([5.0], 0.0),  # reached at the threshold, not below it
        ([2.5], 75.0),  # a triangle up to 2.5, then level
        ([2.5, np.inf], 37.5),
        ([1.0, 4.0], 100 * (0.25 + 2.25 + 1) / 5),
    ],
)
def test_auc_of_hand_made_curves(errors: list[float], expected: float) -> None:
    assert metrics.auc(errors, [5])[0] == pytest.approx(expected)


def test_recall_curve() -> None:
    x, y = metrics.recall_curve([3, np.inf, 1, 2])
    assert x.tolist() == [0, 1, 2, 3, np.inf]
    assert y.tolist() == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize("errors", [[], [np.nan], [-1.0], [[1.0]]])
def test_bad_errors_are_rejected(errors: list[Any]) -> None:
    with pytest.raises(UsageError):
        metrics.auc(errors, [5])


def test_bad_threshold_is_rejected() -> None:
    with pytest.raises(UsageError, match="positive"):
        metrics.auc([1.0], [0])


def test_accuracy_counts_the_threshold_itself() -> None:
    assert metrics.accuracy([1.0, 3.0, np.inf, 0.5], [1, 3, 5]) == [50, 75, 75]


@pytest.mark.parametrize("count", [0, 1, 1300])
def test_nearest_equals_loops(count: int) -> None:
    rng = np.random.default_rng(3)
    queries, points = rng.uniform(0, 90, (count, 2)), rng.uniform(0, 90, (37, 2))
    queries[::5] = np.nan
    points[4] = np.nan
    index, distance = metrics.nearest_points(queries, points)
    for i, query in enumerate(queries):
        gaps = [np.hypot(*(query - point)) for point in points]
        if np.isnan(query).any():
            assert (index[i], distance[i]) == (-1, np.inf)
        else:
            assert index[i] == np.nanargmin(gaps)
            assert distance[i] == pytest.approx(np.nanmin(gaps))


def test_nearest_of_nothing() -> None:
    index, distance = metrics.nearest_points(np.zeros((3, 2)), np.zeros((0, 2)))
    assert index.tolist() == [-1, -1, -1]
    assert np.isinf(distance).all()


def scene(seed: int) -> tuple[Array, Array, Array, Array]:
    """Homography, keypoints of both images, and indices of matches, some of them wrong."""
    rng = np.random.default_rng(seed)
    H = np.array([[1.05, -0.1, 8.0], [0.12, 0.95, -4.0], [2e-4, -1e-4, 1.0]])
    keypoints0 = rng.uniform(0, (159, 119), (60, 2))
    moved = project(keypoints0[:45], H) + rng.normal(0, 1.6, (45, 2))
    keypoints1 = np.r_[moved, rng.uniform(0, (149, 129), (25, 2))]
    indices = np.stack((np.arange(50), rng.permutation(50)), 1)
    indices[:35, 1] = np.arange(35)
    return H, keypoints0, keypoints1, indices


def visible(point: Array, size: tuple[int, int]) -> bool:
    return bool(0 <= point[0] <= size[0] - 1 and 0 <= point[1] <= size[1] - 1)


def brute_force(H: Array, keypoints0: Array, keypoints1: Array, indices: Array) -> dict[str, float]:
    there, back = project(keypoints0, H), project(keypoints1, np.linalg.inv(H))
    gaps = [[float(np.hypot(*(a - b))) for b in keypoints1] for a in there]
    truth = []
    for i, j in itertools.product(range(len(keypoints0)), range(len(keypoints1))):
        best0 = all(gaps[i][j] <= gaps[i][other] for other in range(len(keypoints1)))
        best1 = all(gaps[i][j] <= gaps[other][j] for other in range(len(keypoints0)))
        seen = visible(there[i], SIZE1) and visible(back[j], SIZE0)
        if best0 and best1 and seen and gaps[i][j] <= 3:
            truth.append((i, j))
    correct = sum(gaps[i][j] <= 3 for i, j in indices)
    found = sum((i, j) in truth for i, j in indices)
    seen0 = sum(visible(point, SIZE1) for point in there)
    seen1 = sum(visible(point, SIZE0) for point in back)
    return {
        "precision": correct / len(indices),
        "recall": found / len(truth),
        "matching_score": correct / ((seen0 + seen1) / 2),
        "correspondences": len(truth),
    }


@pytest.mark.parametrize("seed", range(4))
def test_match_metrics_equal_loops(seed: int) -> None:
    H, keypoints0, keypoints1, indices = scene(seed)
    points0, points1 = keypoints0[indices[:, 0]], keypoints1[indices[:, 1]]
    found = metrics.homography_match_metrics(
        keypoints0, keypoints1, indices, points0, points1, H, SIZE0, SIZE1
    )
    expected = brute_force(H, keypoints0, keypoints1, indices)
    assert 0 < expected["recall"] < 1 and expected["correspondences"] > 10
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value), name
    scaled = metrics.homography_match_metrics(
        keypoints0, keypoints1, indices, points0, points1, -7 * H, SIZE0, SIZE1
    )
    assert scaled == found


def test_match_metrics_of_the_identity() -> None:
    points = np.random.default_rng(0).uniform(0, 99, (20, 2))
    indices = np.stack((np.arange(20), np.arange(20)), 1)
    size, eye = (100, 100), np.eye(3)
    exact = metrics.homography_match_metrics(
        points, points, indices, points, points, eye, size, size
    )
    assert (exact.precision, exact.recall, exact.matching_score) == (1, 1, 1)
    assert (exact.matches, exact.correspondences) == (20, 20)
    half = points.copy()
    half[:10] += 30
    wrong = metrics.homography_match_metrics(points, points, indices, points, half, eye, size, size)
    assert (wrong.precision, wrong.recall, wrong.matching_score) == (0.5, 1, 0.5)


def test_refined_points_are_judged_by_where_they_are() -> None:
    points = np.array([[10.0, 10.0], [60.0, 40.0]])
    off = points + 2.5
    indices = np.array([[0, 0], [1, 1]])
    for shift, precision in ((0.0, 1.0), (1.0, 0.0)):
        found = metrics.homography_match_metrics(
            points, off, indices, points, off + shift, np.eye(3), (100, 100), (100, 100), 3.6
        )
        assert (found.precision, found.recall) == (precision, 1.0)


@pytest.mark.parametrize(("count0", "count1"), [(0, 0), (0, 5), (5, 0), (5, 5)])
def test_no_matches(count0: int, count1: int) -> None:
    rng = np.random.default_rng(0)
    keypoints = [rng.uniform(0, 99, (count, 2)) for count in (count0, count1)]
    nothing, none = np.zeros((0, 2)), np.zeros((0, 2), np.int64)
    found = metrics.homography_match_metrics(
        *keypoints, none, nothing, nothing, np.eye(3), (100, 100), (100, 100)
    )
    assert (found.precision, found.recall, found.matching_score, found.matches) == (0, 0, 0, 0)
    assert metrics.matching_accuracy(nothing, nothing, np.eye(3), [1, 3]) == [0, 0]


def test_matching_accuracy() -> None:
    points = np.full((4, 2), 20.0)
    moved = points + np.array([[0.5, 0], [2, 0], [0, 3], [40, 0]])
    assert metrics.matching_accuracy(points, moved, np.eye(3), [1, 2, 3, 10]) == [
        0.25,
        0.5,
        0.75,
        0.75,
    ]


@pytest.mark.parametrize("seed", range(3))
def test_detector_metrics_equal_loops(seed: int) -> None:
    H, keypoints0, keypoints1, _ = scene(seed)
    there = [p for p in project(keypoints0, H) if visible(p, SIZE1)]
    back = project(keypoints1, np.linalg.inv(H))
    here = [p for p, b in zip(keypoints1, back, strict=True) if visible(b, SIZE0)]
    least = [min(np.hypot(*(a - b)) for b in here) for a in there]
    least += [min(np.hypot(*(a - b)) for b in there) for a in here]
    close = [gap for gap in least if gap <= 3]
    found = metrics.detector_metrics(keypoints0, keypoints1, H, SIZE0, SIZE1)
    assert found.repeatability == pytest.approx(len(close) / len(least))
    assert found.localization_error == pytest.approx(np.mean(close))


def test_detector_metrics_of_known_cases() -> None:
    grid = np.stack(np.meshgrid(np.arange(10, 90, 20), np.arange(10, 90, 20)), -1).reshape(-1, 2)
    size = (100, 100)
    same = metrics.detector_metrics(grid, grid, np.eye(3), size, size)
    assert (same.repeatability, same.localization_error) == (1, 0)
    off = metrics.detector_metrics(grid, grid + np.array([1, 0]), np.eye(3), size, size)
    assert (off.repeatability, off.localization_error) == (1, 1)
    far = metrics.detector_metrics(grid, grid + np.array([9, 0]), np.eye(3), size, size)
    assert far.repeatability == 0 and np.isnan(far.localization_error)
    none = metrics.detector_metrics(grid[:0], grid[:0], np.eye(3), size, size)
    assert none.repeatability == 0 and np.isnan(none.localization_error)

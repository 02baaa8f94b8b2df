"""Quick estimates of a homography and of the matches that agree with an epipolar geometry."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.geometry.quick_estimates import count_epipolar_inliers, quick_homography


def views(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 2) of a scene in two cameras of 640×480 pixels."""
    points = rng.uniform((-2, -1.5, 4), (2, 1.5, 8), (count, 3))
    moved = points + np.array((0.6, 0.1, 0.2))
    return tuple(
        (500 * p[:, :2] / p[:, 2:] + (320, 240)).astype(np.float32) for p in (points, moved)
    )


def test_true_matches_are_counted_among_wrong_ones() -> None:
    rng = np.random.default_rng(0)
    points0, points1 = views(rng, 80)
    points1[50:] = rng.uniform((0, 0), (640, 480), (30, 2))
    count = count_epipolar_inliers(points0, points1, 2.0, 500)
    assert 48 <= count <= 60
    assert count_epipolar_inliers(points0, points1, 2.0, 500) == count


def test_wrong_matches_have_few_inliers() -> None:
    rng = np.random.default_rng(1)
    points0, points1 = (
        rng.uniform((0, 0), (640, 480), (40, 2)).astype(np.float32) for _ in range(2)
    )
    assert count_epipolar_inliers(points0, points1, 2.0, 500) < 16


@pytest.mark.parametrize("count", [0, 7])
def test_few_matches_have_no_geometry(count: int) -> None:
    points0, points1 = views(np.random.default_rng(2), count)
    assert count_epipolar_inliers(points0, points1, 2.0, 500) == 0


def test_equal_points_do_not_fail() -> None:
    equal = np.zeros((20, 2), np.float32)
    assert 0 <= count_epipolar_inliers(equal, equal, 2.0, 100) <= 20


def test_a_homography_is_found_among_wrong_matches() -> None:
    rng = np.random.default_rng(0)
    points0 = rng.uniform((0, 0), (640, 480), (60, 2)).astype(np.float32)
    points1 = points0 * np.float32(1.2) + np.float32((5, -3))
    points1[40:] = rng.uniform((0, 0), (640, 480), (20, 2))
    found = quick_homography(points0, points1, 3.0)
    assert found is not None
    H, inliers = found
    np.testing.assert_allclose(H / H[2, 2], [[1.2, 0, 5], [0, 1.2, -3], [0, 0, 1]], atol=1e-3)
    assert inliers[:40].all() and inliers[40:].sum() <= 2


@pytest.mark.parametrize("count", [0, 3])
def test_few_matches_have_no_homography(count: int) -> None:
    points = np.zeros((count, 2), np.float32)
    assert quick_homography(points, points, 3.0) is None


def test_a_failure_of_opencv_is_no_homography(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("Assertion failed")

    monkeypatch.setattr(cv2, "findHomography", fail)
    points = np.random.default_rng(1).uniform(0, 400, (20, 2)).astype(np.float32)
    assert quick_homography(points, points, 3.0) is None

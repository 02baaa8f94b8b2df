"""The quick test counts the matches that agree with one epipolar geometry."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.geometry.epipolar_support import count_epipolar_inliers


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

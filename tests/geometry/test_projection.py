"""Points and errors under a homography."""

from __future__ import annotations

import numpy as np
import pytest
from two_views import H_TRUE, SIZE, project

from featherglue.geometry.projection import (
    corner_error,
    hartley_normalization,
    reprojection_errors,
    warp_points,
)


def test_points_are_warped() -> None:
    points = np.random.default_rng(0).random((20, 2)) * SIZE
    np.testing.assert_allclose(warp_points(points, H_TRUE), project(H_TRUE, points))


def test_normalized_points_have_mean_0_and_mean_distance_root_2() -> None:
    points = np.random.default_rng(0).random((20, 2)) * SIZE
    normalized = warp_points(points, hartley_normalization(points))
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-12)
    assert np.linalg.norm(normalized, axis=1).mean() == pytest.approx(np.sqrt(2))


def test_points_at_infinity_have_an_infinite_error() -> None:
    H = np.array([[1.0, 0, 0], [0, 1.0, 0], [-0.1, 0, 1.0]])
    points = np.array([[10.0, 5.0], [0.0, 0.0]])  # the first one lies on the horizon
    assert reprojection_errors(points, points, H).tolist() == [np.inf, 0]


def test_corner_error() -> None:
    shift = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert corner_error(np.eye(3), np.eye(3), SIZE) == 0
    assert corner_error(shift, np.eye(3), SIZE) == pytest.approx(5)
    assert corner_error(-7 * shift, np.eye(3), SIZE) == pytest.approx(5)  # up to scale
    double = np.diag([2.0, 2, 1])
    expected = (0 + (SIZE[0] - 1) + (SIZE[1] - 1) + np.hypot(SIZE[0] - 1, SIZE[1] - 1)) / 4
    assert corner_error(double, np.eye(3), SIZE) == pytest.approx(expected)
    horizon = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / (SIZE[0] - 1), 0, 1]])
    assert corner_error(horizon, np.eye(3), SIZE) == float("inf")
    assert corner_error(np.full((3, 3), np.nan), np.eye(3), SIZE) == float("inf")

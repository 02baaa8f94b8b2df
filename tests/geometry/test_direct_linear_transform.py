"""Direct linear transforms."""

from __future__ import annotations

import numpy as np
import pytest
from two_views import H_TRUE, SIZE, planar_matches, project, spatial_matches

from featherglue.errors import EstimationError, UsageError
from featherglue.geometry.direct_linear_transform import linear_fundamental, weighted_homography
from featherglue.geometry.epipolar import sampson_distances
from featherglue.geometry.projection import corner_error


def test_weighted_dlt_is_exact_on_exact_matches() -> None:
    rng = np.random.default_rng(0)
    for count in (4, 5, 50):
        points0 = rng.random((count, 2)) * SIZE
        H = weighted_homography(points0, project(H_TRUE, points0), rng.random(count) + 0.1)
        np.testing.assert_allclose(H, H_TRUE, rtol=1e-6, atol=1e-8)


def test_weighted_dlt_obeys_its_weights() -> None:
    points0, points1 = planar_matches(60, outliers=20)
    weights = np.r_[np.ones(40), np.zeros(20)]
    H = weighted_homography(points0, points1, weights)
    assert corner_error(H, H_TRUE, SIZE) < 0.01
    evenly = weighted_homography(points0, points1, np.ones(60))
    assert corner_error(evenly, H_TRUE, SIZE) > 5


def test_weighted_dlt_refuses_degenerate_matches() -> None:
    t = np.linspace(0, 100, 12)
    line = np.stack((t, 2 * t + 3), 1)
    square = np.array([(0, 0), (9, 0), (0, 9), (9, 9.0)])
    with pytest.raises(EstimationError, match="degenerate"):
        weighted_homography(line, line, np.ones(12))
    with pytest.raises(EstimationError, match="degenerate"):
        weighted_homography(np.ones((6, 2)), np.ones((6, 2)), np.ones(6))
    with pytest.raises(EstimationError, match="degenerate"):
        weighted_homography(square[[0, 0, 1, 2]], square[[0, 0, 1, 2]], np.ones(4))
    with pytest.raises(EstimationError, match="positive weight"):
        weighted_homography(square, square, np.array([1, 1, 1, 0.0]))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_matches(count: int) -> None:
    points = np.random.default_rng(0).random((count, 2))
    with pytest.raises(EstimationError, match=f"there are {count}"):
        weighted_homography(points, points, np.ones(count))


@pytest.mark.parametrize("weights", [np.ones(59), -np.ones(60), np.full(60, np.nan)])
def test_invalid_weights_are_rejected(weights: np.ndarray) -> None:
    with pytest.raises(UsageError, match="weights must be"):
        weighted_homography(*planar_matches(60), weights)


@pytest.mark.parametrize("count", [8, 9, 60])
def test_the_eight_point_algorithm_is_exact_on_exact_matches(count: int) -> None:
    points0, points1 = spatial_matches(count=count)
    F = linear_fundamental(points0, points1)
    assert np.linalg.norm(F) == pytest.approx(1)
    assert np.linalg.svd(F)[1][2] < 1e-9 * np.linalg.svd(F)[1][0] + 1e-15
    more0, more1 = spatial_matches(count=200, seed=1)
    assert np.median(sampson_distances(F, more0, more1)) < 0.05


def test_seven_matches_do_not_determine_a_fundamental_matrix() -> None:
    points0, points1 = spatial_matches(count=7)
    with pytest.raises(EstimationError):
        linear_fundamental(points0, points1)

"""The a-contrario test of the support of an estimate."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from two_views import K0, K1, SIZE, planar_matches, spatial_matches

from featherglue.errors import EstimationError
from featherglue.geometry import estimation as geometry
from featherglue.geometry.significance import FUNDAMENTAL, HOMOGRAPHY, POSE, log_false_alarms

Estimate = Callable[..., object]
ESTIMATORS: dict[str, Estimate] = {
    "homography": geometry.estimate_homography,
    "fundamental": geometry.estimate_fundamental,
    "pose": lambda points0, points1, **options: geometry.estimate_relative_pose(
        points0, points1, K0, K1, **options
    ),
}


def test_the_number_of_false_alarms_is_the_published_bound() -> None:
    expected = math.comb(30, 4) * math.comb(26, 6) * 0.01**6
    assert math.exp(log_false_alarms(HOMOGRAPHY, 30, 10, 0.01)) == pytest.approx(expected)
    assert math.exp(log_false_alarms(FUNDAMENTAL, 8, 8, 0.02)) == pytest.approx(3 * 8 * 0.02)
    assert math.exp(log_false_alarms(POSE, 6, 6, 1.0)) == pytest.approx(10 * 6)
    assert log_false_alarms(HOMOGRAPHY, 4, 4, 1e-9) == math.inf


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("count", [8, 12])
@pytest.mark.parametrize("spread", [1.0, 0.1])
def test_random_matches_are_rejected(name: str, count: int, spread: float) -> None:
    """Random matches have no geometry, also if they cover only a corner of the image."""
    random = np.random.default_rng(count)
    for _ in range(8):
        points0, points1 = random.random((2, count, 2)) * SIZE * spread
        with pytest.raises(EstimationError, match=r"no consistent geometry|fits these matches"):
            ESTIMATORS[name](points0, points1, size1=SIZE)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_matches_at_a_few_places_are_no_evidence(name: str) -> None:
    """A model that maps everything to one place has many inliers, among wrong pairs too."""
    random = np.random.default_rng(3)
    points0 = random.random((40, 2)) * SIZE
    points1 = np.array([300.0, 200.0]) + random.normal(0, 1.0, (40, 2))
    with pytest.raises(EstimationError, match="no consistent geometry"):
        ESTIMATORS[name](points0, points1, size1=SIZE)


def test_a_dozen_true_matches_among_as_many_wrong_ones_are_enough() -> None:
    points0, points1 = planar_matches(24, outliers=12, noise=0.5)
    assert geometry.estimate_homography(points0, points1, size1=SIZE).num_inliers >= 12
    points0, points1 = spatial_matches(count=24, outliers=12)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1, size1=SIZE)
    assert pose.num_inliers >= 12
    points0, points1 = spatial_matches(count=24, outliers=6)
    assert geometry.estimate_fundamental(points0, points1, size1=SIZE).num_inliers >= 18


def test_the_message_gives_the_counts_and_the_way_out() -> None:
    points = np.random.default_rng(0).random((2, 9, 2)) * SIZE
    with pytest.raises(EstimationError, match=r"no consistent geometry: .* of 9 matches"):
        geometry.estimate_homography(*points)
    assert geometry.estimate_homography(*points, max_false_alarms=None).num_inliers >= 4

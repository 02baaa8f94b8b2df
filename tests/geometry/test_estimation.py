"""Robust estimation on matches with a known geometry."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from two_views import (
    H_TRUE,
    K0,
    K1,
    SIZE,
    T_TRUE,
    planar_matches,
    pose_matrix,
    project,
    spatial_matches,
)

from featherglue.errors import EstimationError, UsageError
from featherglue.geometry import estimation as geometry
from featherglue.geometry.epipolar import normalize_points, pose_errors
from featherglue.geometry.projection import corner_error

# --- homographies ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_a_known_homography_among_outliers(method: geometry.Method) -> None:
    points0, points1 = planar_matches(200, outliers=80, noise=0.3)
    found = geometry.estimate_homography(points0, points1, method=method)
    inliers = found.inliers
    assert found.model[2, 2] == 1
    assert inliers.dtype == np.bool_
    assert inliers.shape == (200,)
    assert found.num_inliers == inliers.sum()
    assert corner_error(found.model, H_TRUE, SIZE) < 0.5
    assert inliers[:120].mean() > 0.97
    assert inliers[120:].mean() < 0.05


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_four_matches_are_enough_for_a_homography(method: geometry.Method) -> None:
    corners = np.array([(10, 10), (600, 20), (20, 450), (620, 470)], np.float32)
    exact = project(H_TRUE, corners)
    found = geometry.estimate_homography(corners, exact, method=method, max_false_alarms=None)
    assert corner_error(found.model, H_TRUE, SIZE) < 0.01
    assert found.inliers.all()


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_the_same_seed_gives_the_same_homography(method: geometry.Method) -> None:
    points0, points1 = planar_matches(80, outliers=50, noise=1.0)
    first = geometry.estimate_homography(points0, points1, method=method, seed=3)
    cv2.setRNGSeed(99)
    cv2.randu(np.zeros(5), 0, 1)
    second = geometry.estimate_homography(points0, points1, method=method, seed=3)
    np.testing.assert_array_equal(first.model, second.model)
    np.testing.assert_array_equal(first.inliers, second.inliers)


def test_another_seed_draws_other_samples() -> None:
    points0, points1 = planar_matches(80, outliers=50, noise=1.0)
    seeds = [
        geometry.estimate_homography(
            points0, points1, iterations=20, seed=seed, max_false_alarms=None
        ).model
        for seed in range(5)
    ]
    assert any((other != seeds[0]).any() for other in seeds[1:])


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_degenerate_matches_give_no_homography(method: geometry.Method) -> None:
    rng = np.random.default_rng(0)
    one = np.zeros((20, 2)) + 5
    for points0, points1 in (
        (one, one),
        (rng.random((20, 2)) * 100, one),
    ):
        with pytest.raises(EstimationError):
            geometry.estimate_homography(points0, points1, method=method)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_matches(count: int) -> None:
    points = np.random.default_rng(0).random((count, 2)).astype(np.float32)
    with pytest.raises(EstimationError, match=f"there are {count}"):
        geometry.estimate_homography(points, points)
    with pytest.raises(EstimationError, match=f"there are {count}"):
        geometry.estimate_fundamental(points, points)
    with pytest.raises(EstimationError, match=f"there are {count}"):
        geometry.estimate_relative_pose(points, points, K0, K1)


Estimate = Callable[..., object]
ESTIMATORS: list[Estimate] = [
    geometry.estimate_homography,
    geometry.estimate_fundamental,
    lambda points0, points1, **options: geometry.estimate_relative_pose(
        points0, points1, K0, K1, **options
    ),
]


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("threshold", [-1.0, 0.0, float("nan"), float("inf")])
def test_the_threshold_must_be_positive(estimate: Estimate, threshold: float) -> None:
    points0, points1 = spatial_matches()
    with pytest.raises(UsageError, match="threshold must be a positive number of pixels"):
        estimate(points0, points1, threshold=threshold)


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize("confidence", [0.0, 1.0, float("nan")])
def test_the_confidence_lies_between_0_and_1(estimate: Estimate, confidence: float) -> None:
    points0, points1 = spatial_matches()
    with pytest.raises(UsageError, match="confidence must lie between 0 and 1"):
        estimate(points0, points1, confidence=confidence)


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_invalid_points_are_rejected(estimate: Estimate) -> None:
    points = spatial_matches(count=9)[0]
    broken = points.copy()
    broken[3, 1] = np.nan
    for points0, points1, message in (
        (points[:5], points[:6], "same length, not 5 and 6"),
        (np.zeros((9, 3)), points, r"points0 must be \(M, 2\), not \(9, 3\)"),
        (points, np.zeros(9), r"points1 must be \(M, 2\), not \(9,\)"),
        (points, broken, "points1 must be finite; row 3 is not"),
        ([["a", "b"]] * 9, points, "points0 must be an .* array of numbers"),
        ([[1, 2], [3]], points, "points0 must be an .* array of numbers"),
    ):
        with pytest.raises(UsageError, match=message):
            estimate(points0, points1)


@pytest.mark.parametrize("estimate", ESTIMATORS)
def test_lists_are_points_too(estimate: Estimate) -> None:
    points0, points1 = spatial_matches()
    given = estimate(points0.tolist(), points1.tolist())
    expected = estimate(points0, points1)
    np.testing.assert_array_equal(given.model, expected.model)  # type: ignore[attr-defined]


@pytest.mark.parametrize("estimate", ESTIMATORS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threshold": "3"}, "threshold must be a positive number of pixels, not '3'"),
        ({"threshold": True}, "threshold must be a positive number of pixels"),
        ({"confidence": "high"}, "confidence must lie between 0 and 1"),
        ({"confidence": 2}, "confidence must lie between 0 and 1, not 2"),
        ({"seed": -1}, "seed must be an integer of at least 0, not -1"),
        ({"seed": 0.5}, "seed must be an integer of at least 0"),
        ({"size1": 640}, r"size1 must be \(width, height\)"),
        ({"size1": (640, 0)}, r"size1 must be \(width, height\)"),
        ({"max_false_alarms": 0}, "max_false_alarms must be a positive number or None, not 0"),
        ({"max_false_alarms": float("nan")}, "max_false_alarms must be a positive number"),
    ],
)
def test_wrong_arguments_are_named(
    estimate: Estimate, wrong: dict[str, object], message: str
) -> None:
    points0, points1 = spatial_matches()
    with pytest.raises(UsageError, match=message):
        estimate(points0, points1, **wrong)


@pytest.mark.parametrize("iterations", [0, 10**12, 10.0, True])
@pytest.mark.parametrize("estimate", ESTIMATORS[:2])
def test_the_number_of_iterations_is_bounded(estimate: Estimate, iterations: int) -> None:
    points0, points1 = planar_matches()
    with pytest.raises(UsageError, match=r"iterations must be an integer in \[1, 1,000,000\]"):
        estimate(points0, points1, iterations=iterations)


@pytest.mark.parametrize(
    ("K", "message"),
    [
        (np.eye(2), r"K0 must be \(3, 3\), not \(2, 2\)"),
        (np.eye(4), r"K0 must be \(3, 3\), not \(4, 4\)"),
        (np.zeros((3, 3)), "K0 must have positive focal lengths, not 0 and 0"),
        (np.diag([500.0, 0, 1]), "K0 must have positive focal lengths, not 500 and 0"),
        (np.diag([500.0, np.nan, 1]), "K0 must be finite"),
        ("K", "K0 must be a .* array of numbers"),
    ],
)
def test_invalid_intrinsics_are_rejected(K: object, message: str) -> None:
    points0, points1 = spatial_matches()
    with pytest.raises(UsageError, match=message):
        geometry.estimate_relative_pose(points0, points1, K, K1)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["magsac", "ransac"])
@pytest.mark.parametrize("count", [5, 12])
def test_coincident_matches_have_no_pose(method: geometry.Method, count: int) -> None:
    points = np.full((count, 2), 50.0)
    with pytest.raises(EstimationError, match="5 distinct matches"):
        geometry.estimate_relative_pose(points, points + 10, K0, K1, method=method)


def test_unknown_method_is_rejected() -> None:
    points0, points1 = spatial_matches()
    with pytest.raises(UsageError, match="lmeds"):
        geometry.estimate_homography(points0, points1, method="lmeds")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lmeds"):
        geometry.estimate_relative_pose(
            points0,
            points1,
            K0,
            K1,
            method="lmeds",  # type: ignore[arg-type]
        )


# --- poses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["ransac", "magsac"])
@pytest.mark.parametrize("outliers", [0, 60])
def test_a_known_pose(method: geometry.Method, outliers: int) -> None:
    points0, points1 = spatial_matches(outliers=outliers)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1, method=method)
    rotation, translation = pose_errors(pose, pose_matrix())
    assert rotation < 0.1
    assert translation < 0.5
    assert np.linalg.norm(pose.t) == pytest.approx(1)
    assert pose.t @ T_TRUE > 0  # in front of both cameras, so even the sign is right
    np.testing.assert_allclose(pose.R @ pose.R.T, np.eye(3), atol=1e-9)
    assert pose.inliers.shape == (200,)
    assert pose.inliers[: 200 - outliers].mean() > 0.97
    assert outliers == 0 or pose.inliers[-outliers:].mean() < 0.2


def test_pure_rotation_gives_the_rotation() -> None:
    points0, points1 = spatial_matches(t=np.zeros(3))
    points1 = points1 + np.random.default_rng(0).normal(0, 0.3, points1.shape)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1)
    rotation, _ = pose_errors(pose, pose_matrix(t=np.array([1.0, 0, 0])))
    assert rotation < 0.5


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("method", ["ransac", "magsac"])
def test_pure_rotation_never_gives_a_wrong_rotation(method: geometry.Method, noise: float) -> None:
    # Without parallax nothing need lie in front of both cameras: no pose is an honest answer.
    points0, points1 = spatial_matches(t=np.zeros(3))
    points1 = points1 + np.random.default_rng(1).normal(0, 1, points1.shape) * noise
    try:
        pose = geometry.estimate_relative_pose(points0, points1, K0, K1, method=method)
    except EstimationError:
        return
    assert pose_errors(pose, pose_matrix(t=np.array([1.0, 0, 0])))[0] < 0.5


def test_plane_has_one_of_its_two_poses() -> None:
    # A plane has two poses that explain it; whichever comes must explain the matches.
    points0, points1 = spatial_matches(plane=True)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1)
    E = pose.model
    rays0 = np.c_[normalize_points(points0, K0), np.ones(200)]
    rays1 = np.c_[normalize_points(points1, K1), np.ones(200)]
    lines = rays0 @ E.T
    distance = np.abs((rays1 * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distance) * 500 < 0.5
    assert np.linalg.norm(pose.t) == pytest.approx(1)


def test_five_matches_are_enough_for_a_pose() -> None:
    points0, points1 = spatial_matches(count=5)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1, max_false_alarms=None)
    assert np.linalg.det(pose.R) == pytest.approx(1)


@pytest.mark.parametrize("method", ["ransac", "magsac"])
def test_the_same_seed_gives_the_same_pose(method: geometry.Method) -> None:
    points0, points1 = spatial_matches(outliers=120)
    first = geometry.estimate_relative_pose(points0, points1, K0, K1, method=method, seed=1)
    cv2.setRNGSeed(7)
    second = geometry.estimate_relative_pose(points0, points1, K0, K1, method=method, seed=1)
    np.testing.assert_array_equal(first.R, second.R)
    np.testing.assert_array_equal(first.t, second.t)
    np.testing.assert_array_equal(first.inliers, second.inliers)


@pytest.mark.parametrize("method", ["ransac", "magsac"])
def test_matches_on_a_line_give_an_error_or_a_rotation(method: geometry.Method) -> None:
    points = 50 + np.arange(12)[:, None] * (20.0, 10.0)
    try:
        pose = geometry.estimate_relative_pose(points, points + 10, K0, K1, method=method)
    except EstimationError:
        return
    np.testing.assert_allclose(pose.R @ pose.R.T, np.eye(3), atol=1e-6)
    assert np.linalg.norm(pose.t) == pytest.approx(1)


def test_singular_intrinsics_are_rejected() -> None:
    points0, points1 = spatial_matches()
    singular = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 0]])
    with pytest.raises(UsageError, match="K1 must not be singular"):
        geometry.estimate_relative_pose(points0, points1, K0, singular)


# --- fundamental matrices -------------------------------------------------------------------


def test_a_known_fundamental_matrix() -> None:
    points0, points1 = spatial_matches(outliers=60)
    found = geometry.estimate_fundamental(points0, points1)
    F, inliers = found.model, found.inliers
    good0, good1 = (np.c_[points[:140], np.ones(140)] for points in (points0, points1))
    lines = good0 @ F.T
    distance = np.abs((good1 * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distance) < 0.1
    assert inliers[:140].mean() > 0.97
    assert inliers[140:].mean() < 0.2
    again = geometry.estimate_fundamental(points0, points1)
    np.testing.assert_array_equal(F, again.model)


def test_matches_of_one_point_give_no_fundamental_matrix() -> None:
    with pytest.raises(EstimationError):
        geometry.estimate_fundamental(np.full((12, 2), 50.0), np.full((12, 2), 60.0))

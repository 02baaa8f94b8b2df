"""Geometry of which the truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.errors import EstimationError, UsageError
from featherglue.geometry import estimation as geometry
from featherglue.geometry.estimation import RelativePose

SIZE = 640, 480
H_TRUE = np.array([[1.05, 0.12, -20.0], [-0.08, 0.95, 15.0], [2e-4, -1e-4, 1.0]])
K0 = np.array([[520.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
K1 = np.array([[480.0, 0, 330.0], [0, 478.0, 228.0], [0, 0, 1]])
R_TRUE = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))[0]
T_TRUE = np.array([0.8, -0.1, 0.3])


def warp(H: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = np.c_[points, np.ones(len(points))] @ H.T
    return mapped[:, :2] / mapped[:, 2:]


def planar_matches(
    count: int = 200, outliers: int = 0, noise: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Matches under H_TRUE, the outliers last."""
    rng = np.random.default_rng(seed)
    points0 = rng.random((count, 2)) * SIZE
    points1 = warp(H_TRUE, points0) + rng.normal(0, 1, (count, 2)) * noise
    if outliers:
        points1[-outliers:] = rng.random((outliers, 2)) * SIZE
    return points0.astype(np.float32), points1.astype(np.float32)


def spatial_matches(
    R: np.ndarray = R_TRUE,
    t: np.ndarray = T_TRUE,
    *,
    count: int = 200,
    outliers: int = 0,
    plane: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Matches of points in space, or on a slanted plane, seen by K0 and K1."""
    rng = np.random.default_rng(seed)
    pixels = rng.random((count, 2)) * SIZE
    rays = np.c_[pixels, np.ones(count)] @ np.linalg.inv(K0).T
    slanted = 6 / (rays @ np.array([0.3, -0.2, 1.0]))
    depth = slanted if plane else rng.uniform(3, 9, count)
    world = rays * depth[:, None]
    seen = (world @ R.T + t) @ K1.T
    points1 = seen[:, :2] / seen[:, 2:]
    if outliers:
        points1[-outliers:] = rng.random((outliers, 2)) * SIZE
    return pixels, points1


# --- homographies ---------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_a_known_homography_among_outliers(method: geometry.Method) -> None:
    points0, points1 = planar_matches(200, outliers=80, noise=0.3)
    H, inliers = geometry.estimate_homography(points0, points1, method=method)
    assert H[2, 2] == 1
    assert inliers.dtype == np.bool_
    assert inliers.shape == (200,)
    assert geometry.corner_error(H, H_TRUE, SIZE) < 0.5
    assert inliers[:120].mean() > 0.97
    assert inliers[120:].mean() < 0.05


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_four_matches_are_enough_for_a_homography(method: geometry.Method) -> None:
    corners = np.array([(10, 10), (600, 20), (20, 450), (620, 470)], np.float32)
    H, inliers = geometry.estimate_homography(corners, warp(H_TRUE, corners), method=method)
    assert geometry.corner_error(H, H_TRUE, SIZE) < 0.01
    assert inliers.all()


@pytest.mark.parametrize("method", ["magsac", "ransac"])
def test_the_same_seed_gives_the_same_homography(method: geometry.Method) -> None:
    points0, points1 = planar_matches(80, outliers=50, noise=1.0)
    first = geometry.estimate_homography(points0, points1, method=method, seed=3)
    cv2.setRNGSeed(99)
    cv2.randu(np.zeros(5), 0, 1)
    second = geometry.estimate_homography(points0, points1, method=method, seed=3)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_another_seed_draws_other_samples() -> None:
    points0, points1 = planar_matches(80, outliers=50, noise=1.0)
    seeds = [
        geometry.estimate_homography(points0, points1, iterations=20, seed=seed)[0]
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
        geometry.weighted_homography(points, points, np.ones(count))
    with pytest.raises(EstimationError, match=f"there are {count}"):
        geometry.estimate_fundamental(points, points)
    with pytest.raises(EstimationError, match=f"there are {count}"):
        geometry.estimate_relative_pose(points, points, K0, K1)


def test_points_of_other_shapes_are_misuse() -> None:
    five, six = np.zeros((5, 2)), np.zeros((6, 2))
    for estimate in (geometry.estimate_homography, geometry.estimate_fundamental):
        with pytest.raises(UsageError, match="twice"):
            estimate(five, six)
        with pytest.raises(UsageError, match="twice"):
            estimate(np.zeros((9, 3)), np.zeros((9, 3)))


def test_an_unknown_method_is_misuse() -> None:
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


def test_weighted_dlt_is_exact_on_exact_matches() -> None:
    rng = np.random.default_rng(0)
    for count in (4, 5, 50):
        points0 = rng.random((count, 2)) * SIZE
        H = geometry.weighted_homography(points0, warp(H_TRUE, points0), rng.random(count) + 0.1)
        np.testing.assert_allclose(H, H_TRUE, rtol=1e-6, atol=1e-8)


def test_weighted_dlt_obeys_its_weights() -> None:
    points0, points1 = planar_matches(60, outliers=20)
    weights = np.r_[np.ones(40), np.zeros(20)]
    H = geometry.weighted_homography(points0, points1, weights)
    assert geometry.corner_error(H, H_TRUE, SIZE) < 0.01
    evenly = geometry.weighted_homography(points0, points1, np.ones(60))
    assert geometry.corner_error(evenly, H_TRUE, SIZE) > 5


def test_weighted_dlt_refuses_degenerate_matches() -> None:
    t = np.linspace(0, 100, 12)
    line = np.stack((t, 2 * t + 3), 1)
    square = np.array([(0, 0), (9, 0), (0, 9), (9, 9.0)])
    with pytest.raises(EstimationError, match="degenerate"):
        geometry.weighted_homography(line, line, np.ones(12))
    with pytest.raises(EstimationError, match="degenerate"):
        geometry.weighted_homography(np.ones((6, 2)), np.ones((6, 2)), np.ones(6))
    with pytest.raises(EstimationError, match="degenerate"):
        geometry.weighted_homography(square[[0, 0, 1, 2]], square[[0, 0, 1, 2]], np.ones(4))
    with pytest.raises(EstimationError, match="positive weight"):
        geometry.weighted_homography(square, square, np.array([1, 1, 1, 0.0]))


def test_corner_error() -> None:
    shift = np.array([[1.0, 0, 3], [0, 1, 4], [0, 0, 1]])
    assert geometry.corner_error(np.eye(3), np.eye(3), SIZE) == 0
    assert geometry.corner_error(shift, np.eye(3), SIZE) == pytest.approx(5)
    assert geometry.corner_error(-7 * shift, np.eye(3), SIZE) == pytest.approx(5)  # up to scale
    double = np.diag([2.0, 2, 1])
    expected = (0 + (SIZE[0] - 1) + (SIZE[1] - 1) + np.hypot(SIZE[0] - 1, SIZE[1] - 1)) / 4
    assert geometry.corner_error(double, np.eye(3), SIZE) == pytest.approx(expected)
    horizon = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / (SIZE[0] - 1), 0, 1]])
    assert geometry.corner_error(horizon, np.eye(3), SIZE) == float("inf")
    assert geometry.corner_error(np.full((3, 3), np.nan), np.eye(3), SIZE) == float("inf")


# --- poses ----------------------------------------------------------------------------------


def truth(R: np.ndarray = R_TRUE, t: np.ndarray = T_TRUE) -> np.ndarray:
    return np.r_[np.c_[R, t], [[0, 0, 0, 1]]]


@pytest.mark.parametrize("method", ["ransac", "magsac"])
@pytest.mark.parametrize("outliers", [0, 60])
def test_a_known_pose(method: geometry.Method, outliers: int) -> None:
    points0, points1 = spatial_matches(outliers=outliers)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1, method=method)
    rotation, translation = geometry.pose_errors(pose, truth())
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
    rotation, _ = geometry.pose_errors(pose, truth(t=np.array([1.0, 0, 0])))
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
    assert geometry.pose_errors(pose, truth(t=np.array([1.0, 0, 0])))[0] < 0.5


def test_a_plane_gives_one_of_its_poses() -> None:
    # A plane has two poses that explain it; whichever comes must explain the matches.
    points0, points1 = spatial_matches(plane=True)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1)
    x, y, z = pose.t
    E = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ pose.R
    rays0 = np.c_[geometry.normalize_points(points0, K0), np.ones(200)]
    rays1 = np.c_[geometry.normalize_points(points1, K1), np.ones(200)]
    lines = rays0 @ E.T
    distance = np.abs((rays1 * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distance) * 500 < 0.5
    assert np.linalg.norm(pose.t) == pytest.approx(1)


def test_five_matches_are_enough_for_a_pose() -> None:
    points0, points1 = spatial_matches(count=5)
    pose = geometry.estimate_relative_pose(points0, points1, K0, K1)
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
@pytest.mark.parametrize("where", ["one point", "a line"])
def test_degenerate_matches_give_an_error_or_a_rotation(
    method: geometry.Method, where: str
) -> None:
    points = np.full((12, 2), 50.0)
    if where == "a line":
        points = points + np.arange(12)[:, None] * (20.0, 10.0)
    try:
        pose = geometry.estimate_relative_pose(points, points + 10, K0, K1, method=method)
    except EstimationError:
        return
    np.testing.assert_allclose(pose.R @ pose.R.T, np.eye(3), atol=1e-6)
    assert np.linalg.norm(pose.t) == pytest.approx(1)


def test_singular_intrinsics_are_misuse() -> None:
    points0, points1 = spatial_matches()
    with pytest.raises(UsageError, match="singular"):
        geometry.estimate_relative_pose(points0, points1, np.zeros((3, 3)), K1)


def test_points_become_rays() -> None:
    points = np.array([(K0[0, 2], K0[1, 2]), (K0[0, 2] + 520, K0[1, 2] - 525)])
    np.testing.assert_allclose(geometry.normalize_points(points, K0), [(0, 0), (1, -1)])


def test_pose_errors() -> None:
    none = np.zeros(0, np.bool_)
    pose = RelativePose(R=np.eye(3), t=np.array([1.0, 0, 0]), inliers=none)
    about_y = cv2.Rodrigues(np.array([0, np.deg2rad(30), 0]))[0]
    T = truth(about_y, np.array([5.0, 5.0, 0]))
    assert geometry.pose_errors(pose, T) == pytest.approx((30, 45))
    T = truth(np.eye(3), np.array([-0.1, 0, 0]))
    assert geometry.pose_errors(pose, T) == pytest.approx((0, 0))  # the sign is not judged
    T = truth(cv2.Rodrigues(np.array([0, 0, np.pi]))[0], np.array([0, 0, 2.0]))
    assert geometry.pose_errors(pose, T[:3]) == pytest.approx((180, 90))


# --- fundamental matrices -------------------------------------------------------------------


def test_a_known_fundamental_matrix() -> None:
    points0, points1 = spatial_matches(outliers=60)
    F, inliers = geometry.estimate_fundamental(points0, points1)
    good0, good1 = (np.c_[points[:140], np.ones(140)] for points in (points0, points1))
    lines = good0 @ F.T
    distance = np.abs((good1 * lines).sum(1)) / np.linalg.norm(lines[:, :2], axis=1)
    assert np.median(distance) < 0.1
    assert inliers[:140].mean() > 0.97
    assert inliers[140:].mean() < 0.2
    again = geometry.estimate_fundamental(points0, points1)
    np.testing.assert_array_equal(F, again[0])


def test_matches_of_one_point_give_no_fundamental_matrix() -> None:
    with pytest.raises(EstimationError):
        geometry.estimate_fundamental(np.full((12, 2), 50.0), np.full((12, 2), 60.0))

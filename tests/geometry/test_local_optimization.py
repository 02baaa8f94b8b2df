"""Local optimization of estimates with a known truth."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.geometry.epipolar import essential_matrix, pose_errors, sampson_distances
from featherglue.geometry.estimation import (
    estimate_fundamental,
    estimate_homography,
    estimate_relative_pose,
)
from featherglue.geometry.local_optimization import (
    _gauss_newton,
    optimize_fundamental,
    optimize_homography,
    optimize_pose,
)
from featherglue.geometry.projection import corner_error

SIZE = 640, 480
H_TRUE = np.array([[1.05, 0.12, -20.0], [-0.08, 0.95, 15.0], [2e-4, -1e-4, 1.0]])
K = np.array([[520.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
R_TRUE = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))[0]
T_TRUE = np.array([0.8, -0.1, 0.3]) / np.linalg.norm([0.8, -0.1, 0.3])
Pair = tuple[np.ndarray, np.ndarray]


def disturbed(points1: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise as of refined matches: most are accurate to 0.1 px, some to 1 px, some are wrong."""
    count = len(points1)
    sizes = rng.choice([0.1, 1.0, 80.0], count, p=[0.7, 0.15, 0.15])
    return points1 + rng.normal(0, 1, (count, 2)) * sizes[:, None]


def planar(seed: int, count: int = 200) -> Pair:
    rng = np.random.default_rng(seed)
    points0 = rng.random((count, 2)) * SIZE
    points1 = cv2.perspectiveTransform(points0[None], H_TRUE)[0]
    return points0, disturbed(points1, rng)


def spatial(seed: int, count: int = 200) -> Pair:
    rng = np.random.default_rng(seed)
    points0 = rng.random((count, 2)) * SIZE
    world = np.c_[points0, np.ones(count)] @ np.linalg.inv(K).T * rng.uniform(3, 9, (count, 1))
    seen = (world @ R_TRUE.T + T_TRUE) @ K.T
    return points0, disturbed(seen[:, :2] / seen[:, 2:], rng)


def homography_error(points: Pair, **options: object) -> float:
    estimate = estimate_homography(*points, **options)  # type: ignore[arg-type]
    return corner_error(estimate.model, H_TRUE, SIZE)


def pose_error(points: Pair, **options: object) -> float:
    pose = estimate_relative_pose(*points, K, K, **options)  # type: ignore[arg-type]
    return max(pose_errors(pose, np.c_[R_TRUE, T_TRUE]))


def epipolar_error(points: Pair, **options: object) -> float:
    """Median Sampson distance of true matches, px."""
    F = estimate_fundamental(*points, **options).model  # type: ignore[arg-type]
    rng = np.random.default_rng(99)
    points0 = rng.random((500, 2)) * SIZE
    world = np.c_[points0, np.ones(500)] @ np.linalg.inv(K).T * rng.uniform(3, 9, (500, 1))
    seen = (world @ R_TRUE.T + T_TRUE) @ K.T
    return float(np.median(sampson_distances(F, points0, seen[:, :2] / seen[:, 2:])))


@pytest.mark.parametrize(
    ("scene", "error", "ratio"),
    [(planar, homography_error, 3), (spatial, pose_error, 3), (spatial, epipolar_error, 2)],
)
def test_local_optimization_reduces_the_error_several_times(
    scene: object, error: object, ratio: float
) -> None:
    points = [scene(seed) for seed in range(12)]  # type: ignore[operator]
    before = np.median([error(pair, local_optimization=False) for pair in points])  # type: ignore[operator]
    after = np.median([error(pair) for pair in points])  # type: ignore[operator]
    assert after < before / ratio


@pytest.mark.parametrize("method", ["ransac", "magsac"])
def test_the_homography_does_not_depend_on_the_order_of_matches(method: str) -> None:
    points0, points1 = planar(3)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(5):
        order = rng.permutation(len(points0))
        pair = points0[order], points1[order]
        estimate = estimate_homography(*pair, method=method)  # type: ignore[arg-type]
        H, inliers = estimate.model, estimate.inliers
        found.append(H)
        gaps = cv2.perspectiveTransform(pair[0][None], H)[0] - pair[1]
        np.testing.assert_array_equal(inliers, np.linalg.norm(gaps, axis=1) < 3)
    for H in found[1:]:
        assert corner_error(H, found[0], SIZE) < 1e-3


def test_exact_matches_have_the_true_model() -> None:
    rng = np.random.default_rng(0)
    points0 = rng.random((50, 2)) * SIZE
    points1 = cv2.perspectiveTransform(points0[None], H_TRUE)[0]
    off = H_TRUE + np.array([[0.001, 0, 0.7], [0, -0.001, -0.5], [0, 0, 0]])
    optimized = optimize_homography(off, points0, points1, 3.0)
    np.testing.assert_allclose(optimized, H_TRUE, rtol=1e-6, atol=1e-9)
    turn = cv2.Rodrigues(np.array([0.001, 0.0005, -0.001]))[0]
    points0, _ = spatial(0)
    rays0 = np.c_[points0, np.ones(200)] @ np.linalg.inv(K).T
    seen = rays0 * rng.uniform(3, 9, (200, 1)) @ R_TRUE.T + T_TRUE
    rays = rays0[:, :2], seen[:, :2] / seen[:, 2:]
    R, t = optimize_pose(turn @ R_TRUE, T_TRUE + 0.002, *rays, 2.0, 520.0)
    np.testing.assert_allclose(R, R_TRUE, atol=1e-7)
    np.testing.assert_allclose(t, T_TRUE, atol=1e-6)


def test_a_fundamental_matrix_keeps_rank_2_and_norm_1() -> None:
    points0, points1 = spatial(5)
    estimate = estimate_fundamental(points0, points1)
    F, inliers = estimate.model, estimate.inliers
    values = np.linalg.svd(F)[1]
    assert values[2] < 1e-12 * values[0]
    assert np.linalg.norm(F) == pytest.approx(1)
    np.testing.assert_array_equal(inliers, sampson_distances(F, points0, points1) < 2)
    assert 0.6 < inliers.mean() < 0.95


def test_with_too_few_matches_the_estimate_is_returned() -> None:
    few = tuple(side[:11] for side in planar(0))
    many = planar(0, count=40)
    H = H_TRUE.copy()
    assert optimize_homography(H, *few, 3.0) is H
    assert optimize_homography(H, many[0], many[1] + 50, 3.0) is H  # nothing fits
    F = np.linalg.inv(K).T @ essential_matrix(R_TRUE, T_TRUE) @ np.linalg.inv(K)
    assert optimize_fundamental(F, *few, 3.0) is F
    rays = tuple(np.c_[side, np.ones(11)] @ np.linalg.inv(K).T for side in few)
    R, t = optimize_pose(R_TRUE, T_TRUE, rays[0][:, :2], rays[1][:, :2], 3.0, 520.0)
    assert R is R_TRUE and t is T_TRUE


def test_matches_beyond_the_threshold_have_no_weight() -> None:
    rng = np.random.default_rng(2)
    points0 = rng.random((100, 2)) * SIZE
    points1 = cv2.perspectiveTransform(points0[None], H_TRUE)[0] + rng.normal(0, 0.1, (100, 2))
    points1[:60] += 6  # another plane, which more of them show
    near = optimize_homography(H_TRUE, points0, points1, 3.0)
    alone = optimize_homography(H_TRUE, points0[60:], points1[60:], 3.0)
    assert corner_error(near, alone, SIZE) < 1e-3
    assert corner_error(near, H_TRUE, SIZE) < 0.1


def located(points: np.ndarray, start: float = 0.3, sign: float = 1.0) -> float:
    """One unknown: a robust mean of points on a line."""

    def residuals(model: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return model - points[None], np.full((1, len(points), 1), sign)

    return float(_gauss_newton(np.array([start]), residuals, lambda m, d: m + d, 3.0, 1.0)[0])


@pytest.mark.parametrize("core", [0.1, 0.0])
def test_weights_are_those_of_geman_and_mcclure(core: float) -> None:
    """Also with identical points, where the lower bound of the median applies."""
    rng = np.random.default_rng(3)
    points = np.r_[rng.normal(0, 1, 140) * core, rng.uniform(0.1, 1.0, 60), 40.0]
    place = located(points)
    gaps = np.abs(points - place)
    near = gaps < 3
    width = 2.4 * max(np.median(gaps[near]), 0.05)
    weights = near / (1 + (gaps / width) ** 2) ** 2
    assert np.sum(weights * (points - place)) == pytest.approx(0, abs=0.02)
    assert 0.001 < place < 0.1


def test_a_worse_result_is_discarded() -> None:
    points = np.random.default_rng(4).normal(0, 0.1, 100)
    assert located(points, start=0.02) != 0.02
    assert located(points, start=0.02, sign=-1.0) == 0.02


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.filterwarnings("error")
def test_points_that_are_not_finite_are_ignored(bad: float) -> None:
    points0, points1 = spatial(0)
    good = estimate_relative_pose(points0, points1, K, K)
    rays = [(np.c_[p, np.ones(200)] @ np.linalg.inv(K).T)[:, :2] for p in (points0, points1)]
    for side in (0, 1):
        damaged = [ray.copy() for ray in rays]
        damaged[side][7] = bad
        R, t = optimize_pose(good.R, good.t, *damaged, 1.0, 520.0)
        assert np.isfinite(R).all() and np.isfinite(t).all()
    points0, points1 = planar(0)
    points1[3, 0] = bad
    optimized = optimize_homography(H_TRUE, points0, points1, 3.0)
    assert corner_error(optimized, H_TRUE, SIZE) < 0.2


@pytest.mark.filterwarnings("error")
def test_points_on_the_horizon() -> None:
    H = np.array([[1.0, 0, 0], [0, 1, 0], [-1 / 300, 0, 1]])
    x, y = np.meshgrid(np.arange(0, 640, 20.0), np.arange(0, 480, 40.0))
    points0 = np.stack((x.reshape(-1), y.reshape(-1)), 1)
    there = points0[:, 0] != 300
    points1 = np.zeros_like(points0)
    points1[there] = cv2.perspectiveTransform(points0[there][None], H)[0]
    off = H + np.array([[0, 0, 0.4], [0, 0, -0.3], [0, 0, 0]])
    optimized = optimize_homography(off, points0, points1, 3.0)
    np.testing.assert_allclose(optimized, H, atol=1e-4)


def test_points_on_a_line_keep_the_homography_close() -> None:
    x = np.linspace(0, 600, 40)
    points0 = np.c_[x, 0.5 * x + 20]
    points1 = cv2.perspectiveTransform(points0[None], H_TRUE)[0]
    optimized = optimize_homography(H_TRUE, points0, points1 + 0.1, 3.0)
    gaps = cv2.perspectiveTransform(points0[None], optimized)[0] - points1
    assert np.isfinite(optimized).all()
    assert np.linalg.norm(gaps, axis=1).max() < 0.3


def test_a_short_baseline() -> None:
    """Points whose depth is large against the baseline are inliers nevertheless."""
    rng = np.random.default_rng(1)
    points0 = rng.random((150, 2)) * SIZE
    world = np.c_[points0, np.ones(150)] @ np.linalg.inv(K).T * rng.uniform(3, 9, (150, 1))
    seen = (world @ R_TRUE.T + 0.05 * T_TRUE) @ K.T
    points1 = seen[:, :2] / seen[:, 2:] + rng.normal(0, 0.1, (150, 2))
    for local_optimization in (False, True):
        pose = estimate_relative_pose(points0, points1, K, K, local_optimization=local_optimization)
        assert pose.t @ T_TRUE > 0.7
        assert pose.inliers.mean() > 0.9
    assert max(pose_errors(pose, np.c_[R_TRUE, T_TRUE])) < 3


def test_a_rotating_camera() -> None:
    rng = np.random.default_rng(1)
    points0 = rng.random((200, 2)) * SIZE
    seen = np.c_[points0, np.ones(200)] @ np.linalg.inv(K).T @ R_TRUE.T @ K.T
    points1 = seen[:, :2] / seen[:, 2:] + rng.normal(0, 0.1, (200, 2))
    pose = estimate_relative_pose(points0, points1, K, K)
    assert pose_errors(pose, np.c_[R_TRUE, T_TRUE])[0] < 0.1

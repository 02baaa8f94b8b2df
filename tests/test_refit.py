"""Fits from a robust estimate on, of which the truth is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.geometry import (
    RelativePose,
    corner_error,
    estimate_fundamental,
    estimate_homography,
    estimate_relative_pose,
    pose_errors,
)
from featherglue.refit import (
    essential,
    refit_fundamental,
    refit_homography,
    refit_pose,
    sampson_distances,
)

SIZE = 640, 480
H_TRUE = np.array([[1.05, 0.12, -20.0], [-0.08, 0.95, 15.0], [2e-4, -1e-4, 1.0]])
K = np.array([[520.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
R_TRUE = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))[0]
T_TRUE = np.array([0.8, -0.1, 0.3]) / np.linalg.norm([0.8, -0.1, 0.3])
Pair = tuple[np.ndarray, np.ndarray]


def disturbed(points1: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As ours: most are good to a tenth of a pixel, some to one or two, some are wrong."""
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
    H, _ = estimate_homography(*points, **options)  # type: ignore[arg-type]
    return corner_error(H, H_TRUE, SIZE)


def pose_error(points: Pair, **options: object) -> float:
    pose = estimate_relative_pose(*points, K, K, **options)  # type: ignore[arg-type]
    return max(pose_errors(pose, np.c_[R_TRUE, T_TRUE]))


def epipolar_error(points: Pair, **options: object) -> float:
    """px, of true matches."""
    F, _ = estimate_fundamental(*points, **options)  # type: ignore[arg-type]
    rng = np.random.default_rng(99)
    points0 = rng.random((500, 2)) * SIZE
    world = np.c_[points0, np.ones(500)] @ np.linalg.inv(K).T * rng.uniform(3, 9, (500, 1))
    seen = (world @ R_TRUE.T + T_TRUE) @ K.T
    return float(np.median(sampson_distances(F, points0, seen[:, :2] / seen[:, 2:])))


@pytest.mark.parametrize(
    ("scene", "error", "ratio"),
    [(planar, homography_error, 3), (spatial, pose_error, 3), (spatial, epipolar_error, 2)],
)
def test_a_fit_is_several_times_as_close(scene: object, error: object, ratio: float) -> None:
    points = [scene(seed) for seed in range(12)]  # type: ignore[operator]
    before = np.median([error(pair, refit=False) for pair in points])  # type: ignore[operator]
    after = np.median([error(pair) for pair in points])  # type: ignore[operator]
    assert after < before / ratio


@pytest.mark.parametrize("method", ["ransac", "magsac"])
def test_a_homography_no_longer_depends_on_the_order(method: str) -> None:
    points0, points1 = planar(3)
    rng = np.random.default_rng(0)
    found = []
    for _ in range(5):
        order = rng.permutation(len(points0))
        pair = points0[order], points1[order]
        H, inliers = estimate_homography(*pair, method=method)  # type: ignore[arg-type]
        found.append(H)
        gaps = cv2.perspectiveTransform(pair[0][None], H)[0] - pair[1]
        np.testing.assert_array_equal(inliers, np.linalg.norm(gaps, axis=1) < 3)
    for H in found[1:]:
        assert corner_error(H, found[0], SIZE) < 1e-3


def test_exact_matches_give_the_truth() -> None:
    rng = np.random.default_rng(0)
    points0 = rng.random((50, 2)) * SIZE
    points1 = cv2.perspectiveTransform(points0[None], H_TRUE)[0]
    off = H_TRUE + np.array([[0.001, 0, 0.7], [0, -0.001, -0.5], [0, 0, 0]])
    refitted = refit_homography(off, points0, points1, 3.0)
    np.testing.assert_allclose(refitted, H_TRUE, rtol=1e-6, atol=1e-9)
    turn = cv2.Rodrigues(np.array([0.001, 0.0005, -0.001]))[0]
    points0, _ = spatial(0)
    rays0 = np.c_[points0, np.ones(200)] @ np.linalg.inv(K).T
    seen = rays0 * rng.uniform(3, 9, (200, 1)) @ R_TRUE.T + T_TRUE
    rays = rays0[:, :2], seen[:, :2] / seen[:, 2:]
    R, t = refit_pose(turn @ R_TRUE, T_TRUE + 0.002, *rays, 2.0, 520.0)
    np.testing.assert_allclose(R, R_TRUE, atol=1e-7)
    np.testing.assert_allclose(t, T_TRUE, atol=1e-6)


def test_a_fundamental_matrix_keeps_its_rank_and_scale_of_pixels() -> None:
    points0, points1 = spatial(5)
    F, inliers = estimate_fundamental(points0, points1)
    values = np.linalg.svd(F)[1]
    assert values[2] < 1e-12 * values[0]
    assert np.linalg.norm(F) == pytest.approx(1)
    np.testing.assert_array_equal(inliers, sampson_distances(F, points0, points1) < 2)
    assert 0.6 < inliers.mean() < 0.95


def test_too_few_matches_leave_the_estimate_as_it_is() -> None:
    points0, points1 = planar(0, count=7)
    H = H_TRUE.copy()
    assert refit_homography(H, points0, points1, 3.0) is H
    far = points1 + 50  # nothing fits
    assert refit_homography(H, points0, far, 3.0) is H
    pose = np.c_[R_TRUE, T_TRUE]
    F = np.linalg.inv(K).T @ essential(pose) @ np.linalg.inv(K)
    assert refit_fundamental(F, points0, points1, 0.1) is F
    R, t = refit_pose(R_TRUE, T_TRUE, points0 / 500, points1 / 500, 1e-3, 500.0)
    np.testing.assert_array_equal(R, R_TRUE)
    np.testing.assert_allclose(t, T_TRUE)


def test_points_on_a_line_do_no_harm() -> None:
    x = np.linspace(0, 600, 40)
    points0 = np.c_[x, 0.5 * x + 20]
    points1 = cv2.perspectiveTransform(points0[None], H_TRUE)[0]
    refitted = refit_homography(H_TRUE, points0, points1 + 0.1, 3.0)
    gaps = cv2.perspectiveTransform(points0[None], refitted)[0] - points1
    assert np.isfinite(refitted).all()
    assert np.linalg.norm(gaps, axis=1).max() < 0.3


def test_a_camera_that_only_turned() -> None:
    rng = np.random.default_rng(1)
    points0 = rng.random((200, 2)) * SIZE
    seen = np.c_[points0, np.ones(200)] @ np.linalg.inv(K).T @ R_TRUE.T @ K.T
    points1 = seen[:, :2] / seen[:, 2:] + rng.normal(0, 0.1, (200, 2))
    pose = estimate_relative_pose(points0, points1, K, K)
    assert isinstance(pose, RelativePose)
    cosine = (np.trace(pose.R.T @ R_TRUE) - 1) / 2
    assert np.rad2deg(np.arccos(np.clip(cosine, -1, 1))) < 0.5

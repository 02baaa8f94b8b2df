"""Whether one homography explains a pair."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.geometry.projection import warp_points
from featherglue.matching.plane_fit import PlaneConfig, coherence, deviations, fit_plane

H = np.array([[0.98, -0.05, 12], [0.04, 1.02, -7], [1e-5, 2e-5, 1]])


def plane_matches(
    count: int, noise: float, wrong: float, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy matches of a plane, and a ratio of wrong ones."""
    rng = np.random.default_rng(seed)
    points0 = rng.uniform((0, 0), (640, 480), (count, 2))
    points1 = warp_points(points0, H) + rng.normal(0, noise, (count, 2))
    bad = rng.random(count) < wrong
    points1[bad] = rng.uniform((0, 0), (640, 480), (int(bad.sum()), 2))
    return points0.astype(np.float32), points1.astype(np.float32)


def scene_matches(count: int, parallax: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Matches of a curved surface: the parallax varies smoothly."""
    rng = np.random.default_rng(seed)
    points0 = rng.uniform((0, 0), (640, 480), (count, 2))
    points1 = warp_points(points0, H) + rng.normal(0, 0.3, (count, 2))
    points1[:, 0] += parallax * np.sin(points0[:, 0] / 60) * np.cos(points0[:, 1] / 70)
    return points0.astype(np.float32), points1.astype(np.float32)


@pytest.mark.parametrize("noise", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("wrong", [0, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_a_plane_is_found_through_noise_and_wrong_matches(
    noise: float, wrong: float, seed: int
) -> None:
    points0, points1 = plane_matches(150, noise, wrong, seed)
    plane = fit_plane(points0, points1)
    assert plane is not None
    assert np.median(deviations(plane.H, points0, warp_points(points0, H))) < 0.5 * noise + 0.02
    assert plane.noise == pytest.approx(1.18 * noise, rel=0.3)  # median of a Rayleigh distribution
    assert plane.depth.mean() < 0.15


@pytest.mark.parametrize("parallax", [4, 10, 30])
@pytest.mark.parametrize("seed", range(3))
def test_a_scene_with_depth_is_no_plane(parallax: float, seed: int) -> None:
    assert fit_plane(*scene_matches(150, parallax, seed)) is None


@pytest.mark.parametrize("count", [0, 3, PlaneConfig().min_matches - 1])
def test_few_matches_show_no_plane(count: int) -> None:
    assert fit_plane(*plane_matches(count, 0.3, 0)) is None


def test_random_matches_show_no_plane() -> None:
    assert fit_plane(*plane_matches(100, 0, 1)) is None


def test_coherence_separates_a_field_from_noise() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 500, (300, 2)).astype(np.float32)
    field = np.stack((np.sin(points[:, 0] / 100), np.cos(points[:, 1] / 100)), 1)
    assert coherence(points, field, 6) > 0.9
    assert abs(coherence(points, rng.normal(size=(300, 2)), 6)) < 0.1
    assert coherence(points, np.zeros((300, 2)), 6) == 0

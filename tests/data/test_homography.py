"""Random homographies, and warping by them."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.data.homography import (
    HomographyRange,
    rotation_matrix,
    sample_homography,
    translation_matrix,
    warp_image,
    warp_points,
)

SIZE = 320, 240
NOTHING = {"rotation": 0.0, "scale": 1.0, "anisotropy": 1.0, "perspective": 0.0, "translation": 0.0}


def draw(count: int, **limits: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        sample_homography(rng, SIZE, HomographyRange(**(NOTHING | limits))) for _ in range(count)
    ]


def test_an_empty_range_gives_the_identity() -> None:
    for H in draw(5):
        np.testing.assert_allclose(H, np.eye(3), atol=1e-12)


def test_sampling_is_seeded() -> None:
    first, second = (
        [sample_homography(np.random.default_rng(s), SIZE, HomographyRange()) for s in range(3)]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_each_limit_bounds_its_quantity() -> None:
    center = np.array([[(SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2]])
    angles = []
    for H in draw(200, rotation=30):
        angles.append(np.rad2deg(np.arctan2(H[1, 0], H[0, 0])))
        np.testing.assert_allclose(H[:2, :2] @ H[:2, :2].T, np.eye(2), atol=1e-9)
        np.testing.assert_allclose(warp_points(center, H), center, atol=1e-9)
    assert -30 <= min(angles) < -20
    assert 20 < max(angles) <= 30
    scales = [np.sqrt(np.linalg.det(H[:2, :2])) for H in draw(200, scale=2)]
    assert 0.5 <= min(scales) < 0.6
    assert 1.7 < max(scales) <= 2
    ratios = []
    for H in draw(200, anisotropy=1.5):
        values = np.linalg.svd(H[:2, :2])[1]
        ratios.append(values[0] / values[1])
        assert values.prod() == pytest.approx(1)
    assert max(ratios) <= 1.5 + 1e-9
    assert max(ratios) > 1.3
    moves = np.array([warp_points(center, H)[0] - center[0] for H in draw(200, translation=0.2)])
    assert (np.abs(moves) <= np.array(SIZE) * 0.2 + 1e-9).all()
    assert (np.abs(moves).max(0) > np.array(SIZE) * 0.15).all()
    corners = np.array([(0, 0), (SIZE[0] - 1, 0), (0, SIZE[1] - 1), (SIZE[0] - 1, SIZE[1] - 1)])
    changes = []
    for H in draw(300, perspective=0.3):
        w = np.c_[corners, np.ones(4)] @ H[2]
        changes.append(np.abs(w - 1).max())
    assert max(changes) < 0.3 * np.sqrt(2)
    assert max(changes) > 0.25


def test_points_behind_the_horizon_are_nan() -> None:
    H = np.array([[1.0, 0, 5], [0, 2, 0], [-0.01, 0, 1]])
    points = np.array([(0, 0), (50, 10), (100, 10), (200, 10)], np.float32)
    warped = warp_points(points, H)
    np.testing.assert_allclose(warped[:2], [(5, 0), (110, 40)])
    assert np.isnan(warped[2:]).all()
    assert warp_points(np.zeros((0, 2)), H).shape == (0, 2)


def test_rotation_and_translation() -> None:
    quarter = rotation_matrix(np.pi / 2)
    np.testing.assert_allclose(quarter @ (1, 0, 1), (0, 1, 1), atol=1e-12)
    np.testing.assert_allclose(translation_matrix(3, -2) @ (1, 1, 1), (4, -1, 1))


@pytest.mark.parametrize("scale", [1.7, 1.0, 0.65, 0.5, 0.35])
def test_warp_image_agrees_with_warp_points(scale: float) -> None:
    y, x = np.mgrid[:240, :320]
    for point in ((100.0, 80.0), (181.3, 120.6)):
        radius = 5 / scale
        blob = 220 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * radius**2))
        H = translation_matrix(40, 30) @ np.diag([scale, scale, 1]) @ translation_matrix(-50, -50)
        H[2, :2] = 1e-4, -2e-4
        image = warp_image(blob.astype(np.uint8), H, (320, 240)).astype(float)
        centroid = (image * x).sum() / image.sum(), (image * y).sum() / image.sum()
        np.testing.assert_allclose(centroid, warp_points(np.array([point]), H)[0], atol=0.15)


def test_downscaling_averages() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (240, 320), np.uint8)
    shrunk = warp_image(noise, np.diag([0.4, 0.4, 1]), (128, 96))
    assert shrunk.std() < 0.6 * noise.std()

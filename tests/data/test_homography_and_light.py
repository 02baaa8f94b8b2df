"""Random homographies and random light: seeded, bounded, and nothing at strength 0."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.data import photometric
from featherglue.data.homography import (
    HomographyRange,
    rotation_matrix,
    sample_homography,
    translation_matrix,
    warp_points,
)
from featherglue.data.photometric import AUGMENTATIONS, augment_photometric

SIZE = 320, 240
NOTHING = {"rotation": 0.0, "scale": 1.0, "anisotropy": 1.0, "perspective": 0.0, "translation": 0.0}


def draw(count: int, **limits: float) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [
        sample_homography(rng, SIZE, HomographyRange(**(NOTHING | limits))) for _ in range(count)
    ]


# --- homographies ---------------------------------------------------------------------------


def test_no_range_is_the_identity() -> None:
    for H in draw(5):
        np.testing.assert_allclose(H, np.eye(3), atol=1e-12)


def test_the_same_seed_draws_the_same() -> None:
    first, second = (
        [sample_homography(np.random.default_rng(s), SIZE, HomographyRange()) for s in range(3)]
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_each_range_bounds_what_it_names() -> None:
    centre = np.array([[(SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2]])
    angles = []
    for H in draw(200, rotation=30):
        angles.append(np.rad2deg(np.arctan2(H[1, 0], H[0, 0])))
        np.testing.assert_allclose(H[:2, :2] @ H[:2, :2].T, np.eye(2), atol=1e-9)
        np.testing.assert_allclose(warp_points(centre, H), centre, atol=1e-9)
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
    moves = np.array([warp_points(centre, H)[0] - centre[0] for H in draw(200, translation=0.2)])
    assert (np.abs(moves) <= np.array(SIZE) * 0.2 + 1e-9).all()
    assert (np.abs(moves).max(0) > np.array(SIZE) * 0.15).all()
    corners = np.array([(0, 0), (SIZE[0] - 1, 0), (0, SIZE[1] - 1), (SIZE[0] - 1, SIZE[1] - 1)])
    changes = []
    for H in draw(300, perspective=0.3):
        w = np.c_[corners, np.ones(4)] @ H[2]
        changes.append(np.abs(w - 1).max())
    assert max(changes) < 0.3 * np.sqrt(2)
    assert max(changes) > 0.25


def test_points_are_warped_and_those_behind_the_horizon_are_none() -> None:
    H = np.array([[1.0, 0, 5], [0, 2, 0], [-0.01, 0, 1]])
    points = np.array([(0, 0), (50, 10), (100, 10), (200, 10)], np.float32)
    warped = warp_points(points, H)
    np.testing.assert_allclose(warped[:2], [(5, 0), (110, 40)])
    assert np.isnan(warped[2:]).all()
    assert warp_points(np.zeros((0, 2)), H).shape == (0, 2)


def test_building_blocks() -> None:
    quarter = rotation_matrix(np.pi / 2)
    np.testing.assert_allclose(quarter @ (1, 0, 1), (0, 1, 1), atol=1e-12)
    np.testing.assert_allclose(translation_matrix(3, -2) @ (1, 1, 1), (4, -1, 1))


# --- light ----------------------------------------------------------------------------------


def test_strength_0_changes_nothing(grey: np.ndarray) -> None:
    assert augment_photometric(np.random.default_rng(0), grey, 0.0) is grey


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_changed_images_are_images(strength: float, grey: np.ndarray) -> None:
    original = grey.copy()
    changed = [augment_photometric(np.random.default_rng(i), grey, strength) for i in range(20)]
    for image in changed:
        assert image.dtype == np.uint8
        assert image.shape == grey.shape
    np.testing.assert_array_equal(grey, original)
    again = augment_photometric(np.random.default_rng(7), grey, strength)
    np.testing.assert_array_equal(again, changed[7])
    differences = [np.abs(image.astype(float) - grey).mean() for image in changed]
    assert len(set(differences)) > 15
    assert np.median(differences) > 3


def test_more_strength_is_more_change(grey: np.ndarray) -> None:
    means = [
        np.mean(
            [
                np.abs(
                    augment_photometric(np.random.default_rng(i), grey, s).astype(float) - grey
                ).mean()
                for i in range(30)
            ]
        )
        for s in (0.3, 1.0, 2.0)
    ]
    assert means[0] < means[1] < means[2]


@pytest.mark.parametrize(
    "change", [change for change, _ in AUGMENTATIONS], ids=lambda c: c.__name__
)
def test_each_change_does_something_seeded(change: photometric.Change, grey: np.ndarray) -> None:
    image = grey.astype(np.float32)
    results = [change(np.random.default_rng(seed), image.copy(), 1.0) for seed in (1, 1, 2)]
    assert results[0].dtype == np.float32
    assert results[0].shape == image.shape
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 0.5
    assert max(np.abs(result - image).max() for result in results) > 1
    assert all(np.isfinite(result).all() for result in results)


@pytest.mark.parametrize("name", ["defocus", "motion", "resolution", "jpeg"])
def test_no_change_moves_the_picture(name: str) -> None:
    """Correspondences stay exact: blurs are centred on the pixel that they blur."""
    change = getattr(photometric, name)
    y, x = np.mgrid[:96, :96]
    moved = []
    for seed in range(40):
        peak = 47.3, 46.8
        blob = 200 * np.exp(-((x - peak[0]) ** 2 + (y - peak[1]) ** 2) / (2 * 5.0**2))
        result = change(np.random.default_rng(seed), blob.astype(np.float32), 1.0)
        weights = np.where(result > 10, result, 0)
        centroid = (weights * x).sum() / weights.sum(), (weights * y).sum() / weights.sum()
        moved.append(np.hypot(centroid[0] - peak[0], centroid[1] - peak[1]))
    assert max(moved) < 0.3


def test_exposure_saturates_and_does_not_wrap() -> None:
    bright = np.full((32, 32), 250, np.uint8)
    for seed in range(40):
        image = augment_photometric(np.random.default_rng(seed), bright, 1.0)
        assert np.median(image) > 60
    ramp = np.tile(np.arange(256, dtype=np.float32), (4, 1))
    for seed in range(10):
        changed = photometric.gamma(np.random.default_rng(seed), ramp, 1.0)
        assert (np.diff(changed, axis=1) >= 0).all()
        assert (changed[0, 0], changed[0, -1]) == (0, 255)


def test_small_images_survive_every_change() -> None:
    for shape in ((8, 8), (9, 30), (40, 8)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        for seed in range(60):
            changed = augment_photometric(np.random.default_rng(seed), image, 2.0)
            assert changed.shape == shape

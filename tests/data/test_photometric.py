"""Photometric augmentation is seeded, bounded, and does not move image content."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.data import photometric
from featherglue.data.photometric import AUGMENTATIONS, augment_photometric


def test_strength_0_returns_the_image(gray: np.ndarray) -> None:
    assert augment_photometric(np.random.default_rng(0), gray, 0.0) is gray


@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_augmented_images_are_seeded_and_differ(strength: float, gray: np.ndarray) -> None:
    original = gray.copy()
    changed = [augment_photometric(np.random.default_rng(i), gray, strength) for i in range(20)]
    for image in changed:
        assert image.dtype == np.uint8
        assert image.shape == gray.shape
    np.testing.assert_array_equal(gray, original)
    again = augment_photometric(np.random.default_rng(7), gray, strength)
    np.testing.assert_array_equal(again, changed[7])
    differences = [np.abs(image.astype(float) - gray).mean() for image in changed]
    assert len(set(differences)) > 15
    assert np.median(differences) > 3


def test_the_change_grows_with_the_strength(gray: np.ndarray) -> None:
    means = [
        np.mean(
            [
                np.abs(
                    augment_photometric(np.random.default_rng(i), gray, s).astype(float) - gray
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
def test_each_augmentation_is_seeded(change: photometric.Augmentation, gray: np.ndarray) -> None:
    image = gray.astype(np.float32)
    results = [change(np.random.default_rng(seed), image.copy(), 1.0) for seed in (1, 1, 2)]
    assert results[0].dtype == np.float32
    assert results[0].shape == image.shape
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 0.5
    assert max(np.abs(result - image).max() for result in results) > 1
    assert all(np.isfinite(result).all() for result in results)


@pytest.mark.parametrize("name", ["defocus", "motion", "resolution", "jpeg"])
def test_blur_and_compression_do_not_move_the_image(name: str) -> None:
    """Correspondences stay exact: blurs are centered on the pixel that they blur."""
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


def test_small_images_can_be_augmented() -> None:
    for shape in ((8, 8), (9, 30), (40, 8)):
        image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        for seed in range(60):
            changed = augment_photometric(np.random.default_rng(seed), image, 2.0)
            assert changed.shape == shape

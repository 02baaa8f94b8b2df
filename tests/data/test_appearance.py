"""Changes of appearance are seeded, bounded, and do not move image content."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.data.appearance import (
    AUGMENTATIONS,
    add_foreground,
    augment_appearance,
    check_changes,
    random_field,
    tone_curve,
)
from featherglue.data.photometric import Augmentation, augment_photometric
from featherglue.errors import ConfigError


def edges(image: np.ndarray) -> np.ndarray:
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 2)
    return np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))


@pytest.mark.parametrize("change", [change for change, _ in AUGMENTATIONS.values()])
def test_each_augmentation_is_seeded_and_leaves_edges_in_place(
    change: Augmentation, gray: np.ndarray
) -> None:
    image = gray.astype(np.float32)
    results = [change(np.random.default_rng(seed), image.copy(), 1.0) for seed in (1, 1, 2)]
    assert results[0].dtype == np.float32
    assert results[0].shape == image.shape
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1
    assert np.corrcoef(edges(results[0]).ravel(), edges(gray).ravel())[0, 1] > 0.3


def test_strength_0_returns_the_image(gray: np.ndarray) -> None:
    assert augment_appearance(np.random.default_rng(0), gray, 0.0) is gray


def test_appearance_changes_more_than_a_camera_does(gray: np.ndarray) -> None:
    def median_change(augment: object) -> float:
        changed = [augment(np.random.default_rng(i), gray, 1.0) for i in range(40)]  # type: ignore[operator]
        assert all(image.dtype == np.uint8 and image.shape == gray.shape for image in changed)
        return float(np.median([np.abs(image.astype(float) - gray).mean() for image in changed]))

    assert median_change(augment_appearance) > median_change(augment_photometric)


def test_tone_curves_rise_unless_they_are_unusual() -> None:
    rng = np.random.default_rng(0)
    usual = [tone_curve(rng, 0.0) for _ in range(20)]
    assert all((np.diff(curve) >= 0).all() for curve in usual)
    assert all(curve.min() >= 0 and curve.max() <= 255 for curve in usual)
    assert any((np.diff(tone_curve(rng, 1.0)) < 0).any() for _ in range(20))


def test_fields_have_the_size_that_is_asked_for() -> None:
    field = random_field(np.random.default_rng(0), (40, 24), 3, 5)
    assert field.shape == (24, 40)
    assert 0.2 < field.std() < 3


def test_only_the_named_changes_are_drawn(
    gray: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for name in AUGMENTATIONS:
        monkeypatch.setitem(
            AUGMENTATIONS,
            name,
            (lambda rng, image, strength, name=name: called.append(name) or image, 1.0),  # type: ignore[arg-type, misc, return-value]
        )
    augment_appearance(np.random.default_rng(0), gray, 1.0, ("fog", "tones"))
    assert called == ["tones", "fog"]
    augment_appearance(np.random.default_rng(0), gray, 1.0, ())
    assert called == ["tones", "fog"]


def test_changes_are_checked() -> None:
    check_changes(("fog", "rain"))
    for wrong in (("snow",), ("fog", "fog")):
        with pytest.raises(ConfigError, match="changes must be different ones of shading"):
            check_changes(wrong)


def test_foreground_covers_a_part_and_leaves_the_rest(gray: np.ndarray) -> None:
    shares = []
    for seed in range(20):
        image, covered = add_foreground(np.random.default_rng(seed), gray)
        np.testing.assert_array_equal(image[~covered], gray[~covered])
        assert (image[covered] != gray[covered]).mean() > 0.5
        shares.append(covered.mean())
    assert 0.03 < min(shares) < 0.15
    assert 0.15 < max(shares) < 0.27

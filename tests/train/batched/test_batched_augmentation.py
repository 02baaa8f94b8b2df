"""Photometric augmentation of batches against single images."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from batched_cases import draws

from featherglue.data import photometric
from featherglue.train.batched.augmentation import CHANGES, augment_images


@pytest.mark.parametrize("number", range(len(CHANGES)), ids=[c.__name__ for c, _ in CHANGES])
def test_augmentation_is_distributed_as_for_single_images(number: int) -> None:
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.uniform(20, 230, (22, 32)).astype(np.float32), (96, 64))
    change, single = CHANGES[number][0], photometric.AUGMENTATIONS[number][0]
    assert change.__name__ == single.__name__
    count = 1000
    images = torch.from_numpy(image).expand(count, -1, -1)
    changed = change(draws(1), images, 1.0)
    assert changed.shape == images.shape and changed.isfinite().all()
    assert torch.equal(changed, change(draws(1), images, 1.0))
    ours = changed.clamp(0, 255).numpy() - image
    theirs = np.stack([np.clip(single(rng, image, 1.0), 0, 255) for _ in range(count)]) - image
    assert ours.mean() == pytest.approx(theirs.mean(), rel=0.25, abs=3)
    # The tolerance is less than the weakest change, so that the identity fails.
    for spread in (np.std, lambda x: np.abs(x).mean((1, 2)).std()):
        assert spread(ours) == pytest.approx(spread(theirs), rel=0.25, abs=0.9)


def test_augmentation_of_strength_0_is_the_identity() -> None:
    images = torch.randint(0, 256, (3, 64, 96)).float()
    assert torch.equal(augment_images(draws(), images, 0.0).float(), images)


def test_jpeg_of_high_quality_is_nearly_the_image() -> None:
    smooth = cv2.GaussianBlur(
        np.random.default_rng(0).uniform(0, 255, (64, 96)).astype(np.float32), (0, 0), 3
    )
    jpeg = next(c for c, _ in CHANGES if c.__name__ == "jpeg")
    images = torch.from_numpy(smooth).expand(5, -1, -1)
    assert (jpeg(draws(), images, 0.0) - images).abs().mean() < 1.5


def test_augmentation_of_a_constant_image_is_finite() -> None:
    for value in (0.0, 255.0):
        flat = torch.full((16, 64, 96), value)
        for change, _ in CHANGES:
            assert change(draws(), flat, 1.4).isfinite().all(), change.__name__

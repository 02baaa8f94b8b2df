"""Masks of images: keypoints where the mask is 0 are ignored."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ImageError
from featherglue.io.gray import Gray
from featherglue.types import Features


def apply_mask(features: Features, mask: Gray, max_keypoints: int) -> Features:
    """The strongest keypoints where the mask is not 0.

    Args:
        features: of one image, strongest first.
        mask: (H, W) of the image; 0 is ignored.
        max_keypoints: maximum number of keypoints; −1 keeps all.

    Raises:
        ImageError: the mask has another size than the image.
    """
    width, height = features.image_size
    if mask.shape != (height, width):
        raise ImageError(
            f"the mask has {mask.shape[1]}×{mask.shape[0]} pixels, the image {width}×{height}"
        )
    allowed = _rows(features, np.flatnonzero(is_allowed(features.keypoints, mask)))
    return with_mask(strongest(allowed, max_keypoints), mask)


def strongest(features: Features, max_keypoints: int) -> Features:
    """The first keypoints of features, strongest first; −1 keeps all."""
    if not 0 <= max_keypoints < len(features):
        return features
    return _rows(features, np.arange(max_keypoints))


def with_mask(features: Features, mask: Gray | None) -> Features:
    """Features with the mask of their image."""
    return features if mask is features.mask else dataclasses.replace(features, mask=mask)


def _rows(features: Features, rows: NDArray[np.int64]) -> Features:
    return dataclasses.replace(
        features,
        keypoints=features.keypoints[rows],
        scores=features.scores[rows],
        descriptors=features.descriptors[rows],
    )


def is_allowed(points: NDArray[np.float32], mask: Gray) -> NDArray[np.bool_]:
    """Which points (N, 2) are nearest to a pixel (H, W) that is not 0."""
    x, y = np.rint(points).astype(np.int64).T
    height, width = mask.shape
    return np.asarray(mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] > 0)

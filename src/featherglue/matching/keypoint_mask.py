"""Masks of images: keypoints where the mask is 0 are ignored."""

from __future__ import annotations

import dataclasses

import numpy as np

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
    x, y = np.rint(features.keypoints).astype(np.int64).T
    inside = mask[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] > 0
    kept = np.flatnonzero(inside)[: max_keypoints if max_keypoints >= 0 else None]
    return dataclasses.replace(
        features,
        keypoints=features.keypoints[kept],
        scores=features.scores[kept],
        descriptors=features.descriptors[kept],
    )

"""Subpixel refinement of matches between images that were reduced for extraction.

A keypoint of a reduced image is off by about one pixel of that image: several pixels of the
original. The alignment starts at the reduced scale, where it converges, and continues at twice that
scale, where it is more accurate. Larger scales gain nothing measurable.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.io.image import map_points, resize_gray
from featherglue.matching.consensus import LocalMaps
from featherglue.matching.scratch import Scratch
from featherglue.matching.subpixel import RefineConfig, refine_matches

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]
_NUM_SCALES = 2


def refine_at_scales(
    image0: Gray,
    image1: Gray,
    points0: Float,
    points1: Float,
    factors: tuple[float, float],
    scratch: Scratch,
    maps: LocalMaps | None,
    config: RefineConfig | None = None,
) -> tuple[Float, Mask]:
    """Align the points of image 1 to those of image 0, from coarse to fine.

    Args:
        image0, image1: (H, W) uint8 gray images in their own sizes.
        points0, points1: (M, 2) float32 (x, y) pixels of the matches.
        factors: by which each image was reduced for extraction, in (0, 1]; 1 and 1 is a plain
            `subpixel.refine_matches`.
        scratch: buffers.
        maps: local maps of these matches at the reduced scale; None fits them.
        config: settings; None uses the defaults.

    Returns:
        Points (M, 2) float32 in image 1, and a mask (M,) bool of the refined ones.
    """
    if factors == (1.0, 1.0):
        return refine_matches(image0, image1, points0, points1, config, scratch, maps)
    refined = np.zeros(len(points1), np.bool_)
    for images in _scaled(image0, image1, factors):
        sizes = [_size(image) for image in images]
        first = map_points(points0, _size(image0), sizes[0])
        second = map_points(points1, _size(image1), sizes[1])
        moved, mask = refine_matches(*images, first, second, config, scratch, maps)
        moved = map_points(moved, sizes[1], _size(image1))
        points1 = np.where(mask[:, None], moved, points1)
        refined |= mask
        maps = None  # those of the next scale follow from the refined points
    return points1, refined


def _scaled(image0: Gray, image1: Gray, factors: tuple[float, float]) -> list[tuple[Gray, Gray]]:
    """Both images at each scale, the smallest first; a scale is made from the next larger one."""
    images, scales = (image0, image1), []
    for i in reversed(range(_NUM_SCALES)):
        images = tuple(
            _reduced(image, _size(original), min(1.0, factor * 2**i))
            for image, original, factor in zip(images, (image0, image1), factors, strict=True)
        )  # type: ignore[assignment]
        scales.append(images)
    return scales[::-1]


def _reduced(image: Gray, size: tuple[int, int], factor: float) -> Gray:
    """An image at a factor of the original of `size`."""
    return resize_gray(image, (max(1, round(size[0] * factor)), max(1, round(size[1] * factor))))


def _size(image: Gray) -> tuple[int, int]:
    return image.shape[1], image.shape[0]

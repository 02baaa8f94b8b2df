"""The size at which the extractor sees an image.

Sizes are (width, height). Points stay pixels of the given image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.io.image import resized_size
from featherglue.options import ProcessingConfig

Float = NDArray[np.float32]
Size = tuple[int, int]


def working_size(size: Size, processing: ProcessingConfig) -> Size:
    """Size of the image that the extractor sees.

    A given `resize` decides. Without one, an image beyond the working size of the model is reduced
    to it, unless it is extracted in tiles.

    Args:
        size: (width, height) of the given image.
        processing: settings of the session.
    """
    if processing.resize or processing.tile or max(size) <= processing.working_size:
        return resized_size(size, processing.resize)
    return resized_size(size, (processing.working_size,))


def working_factor(size: Size, processing: ProcessingConfig) -> float:
    """Factor, at most 1, by which a large image is reduced for the extractor.

    Keypoints of a reduced image are accurate to a pixel of the reduced image. Matches are filtered
    and refined at that scale first. An image within the working size of the model has the factor 1,
    also if `resize` reduces it.

    Args:
        size: (width, height) of the given image.
        processing: settings of the session.
    """
    if max(size) <= processing.working_size:
        return 1.0
    return min(1.0, max(working_size(size, processing)) / max(size))


def reduced_points(
    points0: Float, points1: Float, factors: tuple[float, float]
) -> tuple[Float, Float]:
    """Points of both images in pixels of images that are reduced by `working_factor`.

    Args:
        points0, points1: (M, 2) float32, pixels of the given images.
        factors: of both images.
    """
    first, second = (
        points if factor == 1 else points * np.float32(factor)
        for points, factor in zip((points0, points1), factors, strict=True)
    )
    return first, second

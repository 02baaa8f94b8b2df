"""Targets of SuperPoint's detector: one class for each cell of 8×8 pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ConfigError

Sample = dict[str, NDArray[np.generic]]
"""One training sample: named arrays without a batch axis."""
CELL = 8
NO_KEYPOINT = CELL * CELL


def check_size(size: tuple[int, ...]) -> None:
    """Raise ConfigError unless `size` is (width, height) in multiples of 8."""
    if len(size) != 2 or any(side < CELL or side % CELL for side in size):
        raise ConfigError(f"size must be width and height in multiples of {CELL}, not {list(size)}")


def points_inside(
    points: NDArray[np.floating], size: tuple[int, int], border: float = 0
) -> NDArray[np.bool_]:
    """Which points lie inside an image.

    Args:
        points: (N, 2) xy pixels; NaN lies outside.
        size: (width, height).
        border: minimum distance from the edges, pixels.

    Returns:
        (N,) bool.
    """
    with np.errstate(invalid="ignore"):
        low = (points >= border).all(1)
        return np.asarray(low & (points <= np.asarray(size) - 1 - border).all(1))


def cell_labels(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.int64]:
    """Detector classes of an image with keypoints at `points`.

    Args:
        points: (N, 2) xy pixels, strongest first. Points outside of the image are ignored; the
            first of several points in a cell counts.
        size: (width, height), multiples of 8.

    Returns:
        (height/8, width/8) int64: 8·y + x of the keypoint within its cell, or 64 for none.
    """
    labels = np.full((size[1] // CELL, size[0] // CELL), NO_KEYPOINT, np.int64)
    rounded = np.rint(points[points_inside(points, size)]).astype(np.int64)[::-1]
    x, y = rounded[:, 0], rounded[:, 1]
    labels[y // CELL, x // CELL] = (y % CELL) * CELL + x % CELL
    return labels

"""Synthetic shapes with exact corners: first training data of the detector.

The method is MagicPoint's (DeTone, Malisiewicz, Rabinovich: SuperPoint, CVPR Workshops 2018,
section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.detector_labels import (
    CELL,
    Sample,
    cell_labels,
    check_size,
    points_inside,
)
from featherglue.data.photometric import augment_photometric, check_strength
from featherglue.data.sample_points import padded_rows
from featherglue.data.shape_drawing import KINDS, Canvas
from featherglue.errors import ConfigError
from featherglue.io.gray import Gray

# cv2.cornerMinEigenVal of a right-angled corner, divided by its squared contrast.
_RIGHT_ANGLE = 0.25


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """Settings of synthetic shapes.

    Attributes:
        size: (width, height) of an image, pixels, multiples of 8.
        kinds: names of `shape_drawing.KINDS` to draw, with equal probability.
        photometric_strength: strength of the photometric augmentation.
        contrast: minimum contrast of a right-angled corner that is labeled, gray levels. Other
            corners need the same Shi-Tomasi response.
        max_points: maximum number of corners in a sample.

    Raises:
        ConfigError: an unknown kind of shape, or a value out of range.
    """

    size: tuple[int, int] = (160, 120)
    kinds: tuple[str, ...] = tuple(KINDS)
    photometric_strength: float = 1.0
    contrast: float = 12.0
    max_points: int = 192

    def __post_init__(self) -> None:
        check_size(self.size)
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise ConfigError(f"kinds must be some of {', '.join(KINDS)}, not {list(self.kinds)}")
        if self.max_points < 1:
            raise ConfigError(f"max_points must be at least 1, not {self.max_points}")
        check_strength(self.photometric_strength)
        if not self.contrast >= 0:
            raise ConfigError(f"contrast must be at least 0, not {self.contrast}")


class SyntheticShapes:
    """An endless dataset of images of shapes. Sample `i` depends only on the seed and `i`.

    A sample holds:

    - `image0`: (1, H, W) uint8.
    - `labels0`: (H/8, W/8) int64, detector classes; see `cell_labels`.
    - `inside0`: (H/8, W/8) bool, all True.
    - `points0`: (P, 2) float32 xy, corners, strongest first, padded with zeros.
    - `count`: number of corners before the padding.
    """

    def __init__(self, config: ShapesConfig, seed: int = 0) -> None:
        self.config, self.seed = config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        config = self.config
        width, height = config.size
        kind = str(rng.choice(config.kinds))
        image, points = draw_shapes(rng, kind, config.size, config.contrast)
        kept = points[: config.max_points]
        return {
            "image0": augment_photometric(rng, image, config.photometric_strength)[None],
            "labels0": cell_labels(kept, config.size),
            "inside0": np.ones((height // CELL, width // CELL), np.bool_),
            "points0": padded_rows(kept, config.max_points),
            "count": np.asarray(len(kept), np.int64),
        }


def draw_shapes(
    rng: np.random.Generator, kind: str, size: tuple[int, int], contrast: float
) -> tuple[Gray, NDArray[np.float64]]:
    """An image of one kind of shapes without photometric augmentation, and its visible corners.

    Corners that another shape hides, that lie outside of the image or whose Shi-Tomasi response
    is too low are left out.

    Args:
        kind: a key of `shape_drawing.KINDS`.
        size: (width, height), pixels.
        contrast: see `ShapesConfig`.

    Returns:
        (H, W) uint8; (N, 2) float64 xy, the highest response first.
    """
    canvas = Canvas(rng, size)
    KINDS[kind](rng, canvas)
    image, points = canvas.finish()
    points = points[points_inside(points, size)]
    response = corner_response(image, points)
    visible = response >= _RIGHT_ANGLE * contrast**2
    return image, points[visible][np.argsort(-response[visible], kind="stable")]


def corner_response(image: Gray, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Shi-Tomasi response at points: the maximum over the 3×3 pixels around each.

    Args:
        image: (H, W) uint8.
        points: (N, 2) xy, inside the image.

    Returns:
        (N,) float32.
    """
    response = cv2.cornerMinEigenVal(image.astype(np.float32), 5)
    highest = np.asarray(cv2.dilate(response, np.ones((3, 3), np.uint8)), np.float32)
    x, y = np.rint(points).astype(np.int64).T
    return np.asarray(highest[y, x], np.float32)

"""Synthetic shapes with exact corners, drawn on the fly: what a detector learns first
(MagicPoint; DeTone, Malisiewicz, Rabinovich 2018, section 4)."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.photometric import change_light
from featherglue.data.shape_drawing import KINDS, Canvas
from featherglue.data.views import CELL, Sample, cell_labels, check_size, inside
from featherglue.errors import ConfigError

Grey = NDArray[np.uint8]
# cornerMinEigenVal of a right-angled corner is this times its squared contrast.
_RIGHT_ANGLE = 0.25


@dataclass(frozen=True, kw_only=True)
class ShapesConfig:
    """How shapes are drawn.

    Attributes:
        size: (width, height) of a picture, multiples of 8.
        kinds: of which pictures are drawn, all as often.
        light: strength of the photometric change.
        contrast: grey levels below which a right-angled corner is not labelled; sharper and
            flatter ones need as much response.
        points: most points in a sample.
    """

    size: tuple[int, int] = (160, 120)
    kinds: tuple[str, ...] = tuple(KINDS)
    light: float = 1.0
    contrast: float = 12.0
    points: int = 192

    def __post_init__(self) -> None:
        check_size(self.size)
        if not self.kinds or set(self.kinds) - set(KINDS):
            raise ConfigError(f"kinds are any of {', '.join(KINDS)}, not {list(self.kinds)}")
        if self.points < 1:
            raise ConfigError(f"points must be at least 1, not {self.points}")
        for name in ("light", "contrast"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} cannot be negative, as {getattr(self, name)} is")


class Shapes:
    """Endless pictures of shapes; item `i` depends on the seed and `i` alone.

    An item holds image0 (1, H, W) uint8; labels0 (Hc, Wc) int64, see `cell_labels`; inside0
    (Hc, Wc) bool, all True; points0 (P, 2) float32 xy, the corners, the clearest first, padded;
    count, how many of them are real.
    """

    def __init__(self, config: ShapesConfig, seed: int = 0) -> None:
        self.config, self.seed = config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        config = self.config
        width, height = config.size
        image, points = draw(rng, str(rng.choice(config.kinds)), config.size, config.contrast)
        kept = points[: config.points]
        padded = np.zeros((config.points, 2), np.float32)
        padded[: len(kept)] = kept
        return {
            "image0": change_light(rng, image, config.light)[None],
            "labels0": cell_labels(kept, config.size),
            "inside0": np.ones((height // CELL, width // CELL), np.bool_),
            "points0": padded,
            "count": np.asarray(len(kept), np.int64),
        }


def draw(
    rng: np.random.Generator, kind: str, size: tuple[int, int], contrast: float
) -> tuple[Grey, NDArray[np.float64]]:
    """A picture of one of `KINDS` before any change of light, and its corners.

    Corners that a later shape hides, that lie outside, or that have too little contrast to be
    seen are left out.

    Returns:
        (H, W) uint8; (N, 2) float64 xy, the clearest first.
    """
    canvas = Canvas(rng, size)
    KINDS[kind](rng, canvas)
    image, points = canvas.finish()
    points = points[inside(points, size)]
    response = corner_response(image, points)
    clear = response >= _RIGHT_ANGLE * contrast**2
    return image, points[clear][np.argsort(-response[clear], kind="stable")]


def corner_response(image: Grey, points: NDArray[np.float64]) -> NDArray[np.float32]:
    """Shi-Tomasi response (N,) of an image (H, W) at points (N, 2) inside it, within a pixel."""
    response = cv2.cornerMinEigenVal(image.astype(np.float32), 5)
    around = np.asarray(cv2.dilate(response, np.ones((3, 3), np.uint8)), np.float32)
    x, y = np.rint(points).astype(np.int64).T
    return np.asarray(around[y, x], np.float32)

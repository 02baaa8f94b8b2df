"""Pairs of views of one photograph under random homographies and light, with exact
correspondences: what the extractor learns from."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import (
    HomographyRange,
    Matrix,
    sample_homography,
    shift,
    warp_points,
)
from featherglue.data.photographs import PhotoFolder
from featherglue.data.photometric import change_light
from featherglue.errors import ConfigError

Sample = dict[str, NDArray[np.generic]]
CELL = 8
NO_KEYPOINT = CELL * CELL


def check_size(size: tuple[int, ...]) -> None:
    """Raise ConfigError unless `size` is a width and a height, multiples of 8."""
    if len(size) != 2 or any(side < CELL or side % CELL for side in size):
        raise ConfigError(f"size is width and height, multiples of {CELL}, not {list(size)}")


@dataclass(frozen=True, kw_only=True)
class ViewConfig:
    """How pairs of views are drawn.

    Attributes:
        size: (width, height) of a view, multiples of 8.
        region: smallest share of the photograph's shorter side that a view starts from.
        near, far: homography ranges of the first and of the second view.
        light: strength of the photometric change of each view.
        points: most correspondences in a sample.
    """

    size: tuple[int, int] = (176, 176)
    region: float = 0.5
    near: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=15, scale=1.2, anisotropy=1.1, perspective=0.1, translation=0.05
        )
    )
    far: HomographyRange = field(
        default_factory=lambda: HomographyRange(
            rotation=45, scale=1.7, anisotropy=1.4, perspective=0.3, translation=0.15
        )
    )
    light: float = 1.0
    points: int = 192

    def __post_init__(self) -> None:
        check_size(self.size)
        if not 0 < self.region <= 1:
            raise ConfigError(f"region must lie in (0, 1], not {self.region}")
        if self.points < 1:
            raise ConfigError(f"points must be at least 1, not {self.points}")


def warp_image(
    image: NDArray[np.uint8], homography: Matrix, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Warp by H to (width, height), black outside; what shrinks below 0.6 is averaged first."""
    height, width = image.shape
    centre = np.linalg.inv(homography) @ ((size[0] - 1) / 2, (size[1] - 1) / 2, 1.0)
    w = homography[2] @ (centre / centre[2])
    scale = np.sqrt(abs(np.linalg.det(homography)) / abs(w) ** 3)
    if scale < 0.6 and min(width, height) >= 16:
        half = (width // 2, height // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA))
        ratio = (width / half[0], height / half[1])
        homography = homography @ shift(-0.5, -0.5) @ np.diag([*ratio, 1.0]) @ shift(0.5, 0.5)
    return np.asarray(cv2.warpPerspective(image, homography, size, flags=cv2.INTER_LINEAR))


def inside(
    points: NDArray[np.floating], size: tuple[int, int], border: float = 0
) -> NDArray[np.bool_]:
    """Which points (N, 2) lie within (width, height), `border` px from its edge; NaN does not."""
    with np.errstate(invalid="ignore"):
        low = (points >= border).all(1)
        return np.asarray(low & (points <= np.asarray(size) - 1 - border).all(1))


def cell_labels(points: Matrix, size: tuple[int, int]) -> NDArray[np.int64]:
    """Detector targets: for each 8×8 cell the index 8·y + x of its first point, or 64.

    Args:
        points: (N, 2) xy, the most important first; those outside are ignored.
        size: (width, height).

    Returns:
        (height/8, width/8) int64.
    """
    labels = np.full((size[1] // CELL, size[0] // CELL), NO_KEYPOINT, np.int64)
    rounded = np.rint(points[inside(points, size)]).astype(np.int64)[::-1]
    x, y = rounded[:, 0], rounded[:, 1]
    labels[y // CELL, x // CELL] = (y % CELL) * CELL + x % CELL
    return labels


class ViewPairs:
    """Endless pairs of views; item `i` depends on the seed and `i` alone.

    An item holds image0, image1 (1, H, W) uint8; labels0, labels1 (Hc, Wc) int64; inside0, inside1
    (Hc, Wc) bool, cells that lie wholly in the photograph; points0, points1 (P, 2) float32,
    corresponding corners, padded; count, how many of them are real; H_0to1 (3, 3) float32.
    """

    def __init__(self, photos: PhotoFolder, config: ViewConfig, seed: int = 0) -> None:
        self.photos, self.config, self.seed = photos, config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        photo, source = self.photos.draw(rng)
        to_views = self._draw_homographies(rng, photo.shape[1], photo.shape[0])
        found = self.photos.keypoints(photo, source)
        views = [self._view(rng, photo, found, to_view) for to_view in to_views]
        seen = inside(views[0][3], self.config.size, 2) & inside(views[1][3], self.config.size, 2)
        chosen = np.flatnonzero(seen)
        if len(chosen) > self.config.points:
            chosen = np.sort(rng.choice(chosen, self.config.points, replace=False))
        sample: Sample = {"count": np.asarray(len(chosen), np.int64)}
        for name, (image, labels, within, points) in zip("01", views, strict=True):
            padded = np.zeros((self.config.points, 2), np.float32)
            padded[: len(chosen)] = points[chosen]
            sample |= {
                f"image{name}": image[None],
                f"labels{name}": labels,
                f"inside{name}": within,
                f"points{name}": padded,
            }
        h_0to1 = to_views[1] @ np.linalg.inv(to_views[0])
        sample["H_0to1"] = (h_0to1 / h_0to1[2, 2]).astype(np.float32)
        return sample

    def _draw_homographies(
        self, rng: np.random.Generator, width: int, height: int
    ) -> tuple[Matrix, Matrix]:
        size = self.config.size
        side = min(width, height) * rng.uniform(self.config.region, 1.0)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        fit = np.diag([size[0] / side, size[1] / side, 1.0]) @ shift(-x, -y)
        near = sample_homography(rng, size, self.config.near) @ fit
        far = sample_homography(rng, size, self.config.far) @ fit
        return (near, far) if rng.random() < 0.5 else (far, near)

    def _view(
        self,
        rng: np.random.Generator,
        photo: NDArray[np.uint8],
        found: NDArray[np.float32],
        to_view: Matrix,
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.bool_], Matrix]:
        size = self.config.size
        image = change_light(rng, warp_image(photo, to_view, size), self.config.light)
        points = warp_points(found, to_view)
        cover = cv2.warpPerspective(np.full(photo.shape, 255, np.uint8), to_view, size)
        cells = cover.reshape(size[1] // CELL, CELL, size[0] // CELL, CELL)
        return image, cell_labels(points, size), cells.min(axis=(1, 3)) == 255, points

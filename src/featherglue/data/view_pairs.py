"""Pairs of views of one photograph under two random homographies: training data of the extractor.

Correspondences are exact, because both views are warps of the same photograph.
"""

from __future__ import annotations

from dataclasses import dataclass, field

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
from featherglue.data.homography import (
    HomographyRange,
    Matrix,
    sample_homography,
    translation_matrix,
    warp_image,
    warp_points,
)
from featherglue.data.photographs import PhotoFolder
from featherglue.data.photometric import augment_photometric, check_strength
from featherglue.data.sample_points import choose_points, padded_rows
from featherglue.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ViewPairConfig:
    """Settings of view pairs.

    Attributes:
        size: (width, height) of a view, pixels, multiples of 8.
        region: minimum size of the square region that a view is made from, as a fraction of the
            photograph's shorter side, in (0, 1].
        near, far: ranges of the two homographies; which view gets which is random.
        photometric_strength: strength of the photometric augmentation of each view, at least 0.
        max_points: maximum number of correspondences in a sample.

    Raises:
        ConfigError: a value is out of range.
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
    photometric_strength: float = 1.0
    max_points: int = 192

    def __post_init__(self) -> None:
        check_size(self.size)
        check_strength(self.photometric_strength)
        if not 0 < self.region <= 1:
            raise ConfigError(f"region must lie in (0, 1], not {self.region}")
        if self.max_points < 1:
            raise ConfigError(f"max_points must be at least 1, not {self.max_points}")


@dataclass(frozen=True)
class _View:
    """A warped view: image (H, W), labels and inside (Hc, Wc), the photograph's points (N, 2)."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    inside: NDArray[np.bool_]
    points: Matrix


class ViewPairs:
    """An endless dataset of view pairs. Sample `i` depends only on the seed and `i`.

    A sample holds, for each view `v` of 0 and 1:

    - `image{v}`: (1, H, W) uint8.
    - `labels{v}`: (H/8, W/8) int64, detector classes; see `cell_labels`.
    - `inside{v}`: (H/8, W/8) bool, True for cells that lie wholly inside the photograph.
    - `points{v}`: (P, 2) float32 xy, corresponding keypoints, padded with zeros.

    Also `count`, the number of correspondences before the padding, and `H_0to1`, (3, 3) float32.
    """

    def __init__(self, photos: PhotoFolder, config: ViewPairConfig, seed: int = 0) -> None:
        self.photos, self.config, self.seed = photos, config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        config = self.config
        photo, crop = self.photos.draw(rng)
        to_views = self._draw_homographies(rng, photo.shape[1], photo.shape[0])
        keypoints = self.photos.keypoints(photo, crop)
        views = [self._view(rng, photo, keypoints, to_view) for to_view in to_views]
        visible = points_inside(views[0].points, config.size, 2)
        visible &= points_inside(views[1].points, config.size, 2)
        chosen = choose_points(rng, visible, config.max_points)
        sample: Sample = {"count": np.asarray(len(chosen), np.int64)}
        for name, view in zip("01", views, strict=True):
            sample |= {
                f"image{name}": view.image[None],
                f"labels{name}": view.labels,
                f"inside{name}": view.inside,
                f"points{name}": padded_rows(view.points[chosen], config.max_points),
            }
        h_0to1 = to_views[1] @ np.linalg.inv(to_views[0])
        sample["H_0to1"] = (h_0to1 / h_0to1[2, 2]).astype(np.float32)
        return sample

    def _draw_homographies(
        self, rng: np.random.Generator, width: int, height: int
    ) -> tuple[Matrix, Matrix]:
        """Homographies from the photograph to both views, of the same square region."""
        size = self.config.size
        side = min(width, height) * rng.uniform(self.config.region, 1.0)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        crop = np.diag([size[0] / side, size[1] / side, 1.0]) @ translation_matrix(-x, -y)
        near = sample_homography(rng, size, self.config.near) @ crop
        far = sample_homography(rng, size, self.config.far) @ crop
        return (near, far) if rng.random() < 0.5 else (far, near)

    def _view(
        self,
        rng: np.random.Generator,
        photo: NDArray[np.uint8],
        keypoints: NDArray[np.float32],
        to_view: Matrix,
    ) -> _View:
        size = self.config.size
        image = augment_photometric(
            rng, warp_image(photo, to_view, size), self.config.photometric_strength
        )
        points = warp_points(keypoints, to_view)
        coverage = cv2.warpPerspective(np.full(photo.shape, 255, np.uint8), to_view, size)
        cells = coverage.reshape(size[1] // CELL, CELL, size[0] // CELL, CELL)
        inside = cells.min(axis=(1, 3)) == 255
        return _View(image, cell_labels(points, size), inside, points)

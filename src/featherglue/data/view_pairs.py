"""Pairs of views of one photograph under two random homographies: training data of the extractor.

Correspondences are exact, because both views are warps of the same photograph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.appearance import (
    AUGMENTATIONS,
    Change,
    add_foreground,
    augment_appearance,
    check_changes,
)
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
from featherglue.io.gray import Gray


class ViewSamples(Protocol):
    """Endless samples of views."""

    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class ViewPairConfig:
    """Settings of view pairs.

    Attributes:
        size: (width, height) of a view, pixels, multiples of 8.
        region: minimum size of the square region that a view is made from, as a fraction of the
            photograph's shorter side, in (0, 1].
        near, far: ranges of the two homographies; which view gets which is random.
        other_sizes: further sizes of views. All samples of a batch have one size, at random.
        photometric_strength: strength of the photometric augmentation of each view, at least 0.
        appearance: fraction of the samples whose views get the strong changes of
            `augment_appearance` instead, in [0, 1]. The stage "distill-features" always has these.
        changes: names of the changes that `augment_appearance` draws from.
        foreground: probability that a part of a view is covered by an object that the other view
            does not have, in [0, 1]; see `add_foreground`.
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
    other_sizes: tuple[tuple[int, int], ...] = ()
    photometric_strength: float = 1.0
    appearance: float = 0.0
    changes: tuple[Change, ...] = tuple(AUGMENTATIONS)
    foreground: float = 0.0
    max_points: int = 192

    def __post_init__(self) -> None:
        for size in (self.size, *self.other_sizes):
            check_size(size)
        check_strength(self.photometric_strength)
        check_changes(self.changes)
        for name in ("appearance", "foreground"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], not {getattr(self, name)}")
        if not 0 < self.region <= 1:
            raise ConfigError(f"region must lie in (0, 1], not {self.region}")
        if self.max_points < 1:
            raise ConfigError(f"max_points must be at least 1, not {self.max_points}")


def change_view(
    rng: np.random.Generator, image: Gray, config: ViewPairConfig, *, strong: bool
) -> tuple[Gray, NDArray[np.bool_]]:
    """Change the appearance of a view.

    Args:
        image: (H, W) uint8.
        config: its strength, changes and foreground.
        strong: whether to use `augment_appearance` instead of `augment_photometric`.

    Returns:
        The image (H, W) uint8, and which pixels a foreground covers (H, W).
    """
    covered = np.zeros(image.shape, np.bool_)
    if config.foreground and rng.random() < config.foreground:
        image, covered = add_foreground(rng, image)
    if strong:
        return augment_appearance(rng, image, config.photometric_strength, config.changes), covered
    return augment_photometric(rng, image, config.photometric_strength), covered


def points_covered(points: Matrix, covered: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which points (N, 2) xy lie on the covered pixels (H, W) of a view.

    A point outside of the view is taken for the nearest point inside.
    """
    x, y = np.rint(np.nan_to_num(points)).astype(np.int64).T
    height, width = covered.shape
    return np.asarray(covered[y.clip(0, height - 1), x.clip(0, width - 1)])


@dataclass(frozen=True)
class _View:
    """A warped view: image (H, W), labels and inside (Hc, Wc), the photograph's points (N, 2).

    `visible` (N,) tells which of the points are at least 2 px inside and not covered.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    inside: NDArray[np.bool_]
    points: Matrix
    visible: NDArray[np.bool_]


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
        strong = config.appearance > 0 and bool(rng.random() < config.appearance)
        views = [self._view(rng, photo, keypoints, to_view, strong) for to_view in to_views]
        chosen = choose_points(rng, views[0].visible & views[1].visible, config.max_points)
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
        strong: bool,
    ) -> _View:
        size = self.config.size
        image, covered = change_view(
            rng, warp_image(photo, to_view, size), self.config, strong=strong
        )
        points = warp_points(keypoints, to_view)
        coverage = cv2.warpPerspective(np.full(photo.shape, 255, np.uint8), to_view, size)
        coverage[covered] = 0
        cells = coverage.reshape(size[1] // CELL, CELL, size[0] // CELL, CELL)
        inside = cells.min(axis=(1, 3)) == 255
        visible = points_inside(points, size, 2) & ~points_covered(points, covered)
        return _View(image, cell_labels(points, size), inside, points, visible)


class MultiSizeViews:
    """Samples of several sizes, one size for each batch. Sample `i` depends on the seed and `i`.

    Args:
        sources: samples of each size.
        batch_size: number of samples of a step.
        seed: seed of the choice.
    """

    def __init__(self, sources: Sequence[ViewSamples], batch_size: int, seed: int = 0) -> None:
        self.sources, self.batch_size, self.seed = list(sources), batch_size, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index // self.batch_size, 5))
        return self.sources[int(rng.integers(len(self.sources)))][index]


def config_by_size(config: ViewPairConfig) -> list[ViewPairConfig]:
    """The settings of views of each size."""
    return [replace(config, size=s, other_sizes=()) for s in (config.size, *config.other_sizes)]

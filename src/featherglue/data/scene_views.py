"""Pairs of views of procedural 3D scenes for the extractor: parallax, slant and occlusion, which
homographies of a single photograph do not have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import Matrix, warp_points
from featherglue.data.photographs import PhotoFolder
from featherglue.data.photometric import change_light
from featherglue.data.scenes import NOTHING, SceneConfig, Scenes, Spatial
from featherglue.data.views import CELL, Sample, ViewConfig, ViewPairs, cell_labels, inside


class SpatialViews:
    """Endless pairs of views of 3D scenes; items as those of `ViewPairs`, but for H_0to1.

    The keypoints are the corners of the planes' textures where a view shows them, so that the
    corners that an occlusion only pretends are none.
    """

    def __init__(
        self, photos: PhotoFolder, scenes: SceneConfig, config: ViewConfig, seed: int = 0
    ) -> None:
        self.scenes, self.config, self.seed = Scenes(photos, scenes, seed), config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index, 1))
        scene = self.scenes.spatial(rng)
        photos = self.scenes.photos
        found = [photos.keypoints(*t) for t in zip(scene.photos, scene.sources, strict=True)]
        mapped, shown = _project(scene, found)
        both = np.flatnonzero(shown[0] & shown[1])
        if len(both) > self.config.points:
            both = np.sort(rng.choice(both, self.config.points, replace=False))
        sample: Sample = {"count": np.asarray(len(both), np.int64)}
        for view, name in enumerate("01"):
            padded = np.zeros((self.config.points, 2), np.float32)
            padded[: len(both)] = mapped[view][both]
            image, planes = scene.images[view], scene.planes[view]
            height, width = image.shape
            covered = (planes != NOTHING).reshape(height // CELL, CELL, width // CELL, CELL)
            sample |= {
                f"image{name}": change_light(rng, image, self.config.light)[None],
                f"labels{name}": cell_labels(mapped[view][shown[view]], (width, height)),
                f"inside{name}": covered.all(axis=(1, 3)),
                f"points{name}": padded,
            }
        return sample


def _project(
    scene: Spatial, found: list[NDArray[np.float32]]
) -> tuple[list[Matrix], list[NDArray[np.bool_]]]:
    """All textures' keypoints in each view (N, 2), strongest first, and which are shown there."""
    plane = np.concatenate([np.full(len(points), i) for i, points in enumerate(found)])
    rank = np.concatenate([np.arange(len(points)) / max(1, len(points)) for points in found])
    order = np.argsort(rank, kind="stable")
    mapped: list[Matrix] = []
    shown: list[NDArray[np.bool_]] = []
    for planes, to_view in zip(scene.planes, scene.to_views, strict=True):
        points, clear = (
            np.concatenate(parts)[order]
            for parts in zip(
                *[
                    (warp_points(p, H), _readable(p, H))
                    for p, H in zip(found, to_view, strict=True)
                ],
                strict=True,
            )
        )
        within = clear & inside(points, (planes.shape[1], planes.shape[0]), 2)
        x, y = np.rint(np.where(within[:, None], points, 0)).astype(np.int64).T
        mapped.append(points)
        shown.append(within & (planes[y, x] == plane[order]))
    return mapped, shown


def _readable(points: NDArray[np.float32], homography: Matrix) -> NDArray[np.bool_]:
    """Which points (N, 2) of a texture are seen at a scale and a slant at which it can be read."""
    mapped = points @ homography[:, :2].T + homography[:, 2]
    w = np.maximum(mapped[:, 2:], 1e-9)
    # Columns of the Jacobian of (x/w, y/w) along the texture's two axes.
    across, down = (
        (homography[:2, i] - mapped[:, :2] / w * homography[2, i]) / w for i in range(2)
    )
    trace = (across**2).sum(1) + (down**2).sum(1)
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    largest = (trace + np.sqrt(np.maximum(trace**2 - 4 * area**2, 0))) / 2
    smallest = area**2 / np.maximum(largest, 1e-12)
    return np.asarray((smallest > 0.25**2) & (smallest > 0.2**2 * largest))


class Mixture:
    """Items of two sources in a random order; item `i` depends on the seed and `i` alone.

    Attributes:
        share: of the items that come from the second source.
    """

    def __init__(self, first: ViewPairs, second: SpatialViews, share: float, seed: int) -> None:
        self.first, self.second, self.share, self.seed = first, second, share, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index, 2))
        if rng.random() < self.share:
            return self.second[index]
        sample = self.first[index]
        del sample["H_0to1"]
        return sample

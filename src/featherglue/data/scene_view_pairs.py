"""Pairs of views of procedural 3D scenes: training data of the extractor with parallax.

Homographies of one photograph have no occlusion and no change of slant between surfaces; views
of 3D scenes have both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.data.detector_labels import CELL, Sample, cell_labels, points_inside
from featherglue.data.homography import Matrix, warp_points
from featherglue.data.photographs import PhotoFolder
from featherglue.data.sample_points import choose_points, padded_rows
from featherglue.data.scenes import NO_PLANE, Scene3D, SceneConfig, Scenes
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs, change_view, points_covered

# Minimum scale of a texture in a view, and minimum ratio of its two principal scales.
_MIN_SCALE = 0.25
_MIN_SCALE_RATIO = 0.2


class SceneViewPairs:
    """An endless dataset of views of 3D scenes. Samples are those of `ViewPairs` without H_0to1.

    Keypoints are those of the textures, where a view shows them. Corners that arise only where
    one plane occludes another are no keypoints.
    """

    def __init__(
        self, photos: PhotoFolder, scenes: SceneConfig, config: ViewPairConfig, seed: int = 0
    ) -> None:
        self.scenes, self.config, self.seed = Scenes(photos, scenes, seed), config, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index, 1))
        scene = self.scenes.draw_scene(rng)
        photos = self.scenes.photos
        keypoints = [photos.keypoints(*t) for t in zip(scene.textures, scene.crops, strict=True)]
        points, visible = _project(scene, keypoints)
        config = self.config
        strong = config.appearance > 0 and bool(rng.random() < config.appearance)
        changed = [change_view(rng, image, config, strong=strong) for image in scene.images]
        visible = [
            seen & ~points_covered(at, covered)
            for seen, at, (_, covered) in zip(visible, points, changed, strict=True)
        ]
        max_points = config.max_points
        chosen = choose_points(rng, visible[0] & visible[1], max_points)
        sample: Sample = {"count": np.asarray(len(chosen), np.int64)}
        for view, name in enumerate("01"):
            image, covered = changed[view]
            height, width = image.shape
            shown = (scene.planes[view] != NO_PLANE) & ~covered
            cells = shown.reshape(height // CELL, CELL, width // CELL, CELL)
            sample |= {
                f"image{name}": image[None],
                f"labels{name}": cell_labels(points[view][visible[view]], (width, height)),
                f"inside{name}": cells.all(axis=(1, 3)),
                f"points{name}": padded_rows(points[view][chosen], max_points),
            }
        return sample


def _project(
    scene: Scene3D, keypoints: list[NDArray[np.float32]]
) -> tuple[list[Matrix], list[NDArray[np.bool_]]]:
    """Project the keypoints of all textures into both views.

    Returns:
        For each view all points (N, 2), strongest first, and which of them are visible (N,).
    """
    plane = np.concatenate([np.full(len(points), i) for i, points in enumerate(keypoints)])
    rank = np.concatenate([np.arange(len(points)) / max(1, len(points)) for points in keypoints])
    order = np.argsort(rank, kind="stable")
    projected: list[Matrix] = []
    visible: list[NDArray[np.bool_]] = []
    for planes, to_view in zip(scene.planes, scene.to_views, strict=True):
        warped = [warp_points(p, H) for p, H in zip(keypoints, to_view, strict=True)]
        resolved = [is_resolved(p, H) for p, H in zip(keypoints, to_view, strict=True)]
        points = np.concatenate(warped)[order]
        inside = np.concatenate(resolved)[order]
        inside &= points_inside(points, (planes.shape[1], planes.shape[0]), 2)
        x, y = np.rint(np.where(inside[:, None], points, 0)).astype(np.int64).T
        projected.append(points)
        visible.append(inside & (planes[y, x] == plane[order]))
    return projected, visible


def is_resolved(points: NDArray[np.float32], homography: Matrix) -> NDArray[np.bool_]:
    """Which points of a texture a view shows large and frontal enough to be detected.

    The singular values of the homography's Jacobian at a point are the two principal scales.

    Args:
        points: (N, 2) xy pixels of the texture.
        homography: (3, 3), from texture to view.

    Returns:
        (N,) bool.
    """
    mapped = points @ homography[:, :2].T + homography[:, 2]
    w = np.maximum(mapped[:, 2:], 1e-9)
    # Columns of the Jacobian of (x/w, y/w) with respect to the two coordinates of the texture.
    across, down = (
        (homography[:2, i] - mapped[:, :2] / w * homography[2, i]) / w for i in range(2)
    )
    trace = (across**2).sum(1) + (down**2).sum(1)
    area = across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0]
    largest = (trace + np.sqrt(np.maximum(trace**2 - 4 * area**2, 0))) / 2
    smallest = area**2 / np.maximum(largest, 1e-12)
    return np.asarray((smallest > _MIN_SCALE**2) & (smallest > _MIN_SCALE_RATIO**2 * largest))


class MixedViewPairs:
    """Samples of view pairs and of scene view pairs in random order, without H_0to1.

    Sample `i` depends only on the seed and `i`.

    Args:
        fraction: fraction of the samples that show 3D scenes.
    """

    def __init__(
        self, flat: ViewPairs, spatial: SceneViewPairs, fraction: float, seed: int = 0
    ) -> None:
        self.flat, self.spatial, self.fraction, self.seed = flat, spatial, fraction, seed

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index, 2))
        if rng.random() < self.fraction:
            return self.spatial[index]
        sample = self.flat[index]
        del sample["H_0to1"]
        return sample

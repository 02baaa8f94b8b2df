"""Batches of pairs of views made on a device.

The counterpart of `data.view_pairs` and `data.scene_view_pairs`, which make single pairs.
Shape legend: B pairs, K planes, P keypoints of a texture, V = 2 views, Hc×Wc cells.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from featherglue.data.detector_labels import CELL, NO_KEYPOINT
from featherglue.data.scenes import NO_PLANE, SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.train.batched.atlas import Atlas
from featherglue.train.batched.augmentation import augment_views
from featherglue.train.batched.draws import Draws
from featherglue.train.batched.geometry import homographies, inverse, scaling, translation
from featherglue.train.batched.plane_scenes import (
    in_random_order,
    select_scenes,
    single_plane_scenes,
    spatial_scenes,
)
from featherglue.train.batched.planes import Planes, Rendered, are_resolved, project, render
from featherglue.train.engine.loader import Batch

_BORDER = 2  # pixels at the edge of a view without correspondences


class BatchedViews:
    """Batched `data.view_pairs.ViewPairs`, mixed with `data.scene_view_pairs.SceneViewPairs`.

    Args:
        atlas: the photographs.
        config: settings of the views.
        scenes: settings of the 3D scenes; their `size` is that of `config`.
        spatial: fraction of pairs that show a 3D scene, in [0, 1].
        seed: seed of the random numbers.
    """

    def __init__(
        self,
        atlas: Atlas,
        config: ViewPairConfig,
        scenes: SceneConfig,
        spatial: float = 0.0,
        seed: int = 0,
    ) -> None:
        self.atlas, self.config, self.seed = atlas, config, seed
        self.scenes, self.spatial = replace(scenes, size=config.size), spatial

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first`, …, `first + count − 1`.

        Returns:
            image0, image1 (B, 1, H, W) uint8; labels0, labels1 (B, Hc, Wc) int64; inside0, inside1
            (B, Hc, Wc) bool; points0, points1 (B, P, 2) float32 xy, padded; count (B,) int64;
            where there are no 3D scenes also H_0to1 (B, 3, 3) float32.
        """
        draws = Draws(self.seed, first, self.atlas.device)
        scene = self._planar(draws, count)
        chosen = draws.chance(self.spatial, count)  # 3D scenes
        if self.spatial:
            spatial = spatial_scenes(self.atlas, self.scenes, draws, count)
            scene = select_scenes(~chosen, scene, spatial)
        seen = render(self.atlas, scene, self.config.size)
        batch = augment_views(draws, seen.images, self.config.photometric_strength)
        rows, columns = self._cells
        covered = (seen.planes != NO_PLANE).reshape(2, count, rows, CELL, columns, CELL)
        covered = covered.all(5).all(3)
        points, labeled, shown, order = self._keypoints(scene, seen, chosen)
        for view, name in enumerate("01"):
            batch[f"labels{name}"] = cell_labels(points[view], labeled[view], order, rows, columns)
            batch[f"inside{name}"] = covered[view]
        both = shown[0] & shown[1]
        max_points = min(self.config.max_points, both.shape[1])
        key = torch.where(both, draws.uniform(0, 1, *both.shape), -1.0)
        index = key.topk(max_points, 1).indices
        batch["count"] = both.sum(1).clamp_max(max_points)
        real = torch.arange(max_points, device=both.device) < batch["count"][:, None]
        for view, name in enumerate("01"):
            found = points[view].gather(1, index[..., None].expand(-1, -1, 2))
            padded = found.new_zeros(count, self.config.max_points, 2)
            padded[:, :max_points] = torch.where(real[..., None], found, 0.0)
            batch[f"points{name}"] = padded
        if not self.spatial:
            H = scene.to_views[1, :, 0] @ inverse(scene.to_views[0, :, 0])
            batch["H_0to1"] = H / H[:, 2:, 2:]
        return batch

    @property
    def _cells(self) -> tuple[int, int]:
        return self.config.size[1] // CELL, self.config.size[0] // CELL

    def _planar(self, draws: Draws, count: int) -> Planes:
        size = self.config.size
        num_planes = self.scenes.max_planes + 1 if self.spatial else 1
        textures = self.atlas.draw(draws, count, num_planes)
        width, height = textures.width[:, 0], textures.height[:, 0]
        side = torch.minimum(width, height) * draws.uniform(self.config.region, 1.0, count)
        x = draws.uniform(0, 1, count) * (width - side)
        y = draws.uniform(0, 1, count) * (height - side)
        fit = scaling(size[0] / side, size[1] / side) @ translation(-x, -y)
        near = homographies(draws, size, self.config.near, count) @ fit
        far = homographies(draws, size, self.config.far, count) @ fit
        return single_plane_scenes(textures, in_random_order(draws, near, far))

    def _keypoints(
        self, scene: Planes, seen: Rendered, spatial: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The keypoints of all textures in both views.

        Args:
            spatial: (B,) bool, 3D scenes. There, keypoints at the edge of a view or on textures
                that are too small or too slanted do not count.

        Returns:
            (V, B, K·P, 2) float32 xy in pixels; (V, B, K·P) bool, keypoints of a view;
            (V, B, K·P) bool, keypoints that may correspond; (B, K·P) int64 from `_order`.
        """
        found, counts = self.atlas.keypoints(scene.textures)
        points = project(found, scene.to_views)
        is_spatial = spatial[:, None, None]
        clear = are_resolved(found, scene.to_views) | ~is_spatial
        width, height = self.config.size
        limit = points.new_tensor([width - 1, height - 1])
        known = counts & scene.exists[..., None] & clear
        within = known & ((points >= 0) & (points <= limit)).all(-1)
        at = torch.where(within[..., None], points, 0.0).round().long()
        pixel = (at[..., 1] * width + at[..., 0]).flatten(2)
        shown = seen.planes.flatten(2).gather(2, pixel).view(within.shape)
        plane = torch.arange(within.shape[2], device=shown.device)[:, None]
        within &= shown == plane
        inner = within & ((points >= _BORDER) & (points <= limit - _BORDER)).all(-1)
        labeled = torch.where(is_spatial, inner, within)
        return points.flatten(2, 3), labeled.flatten(2), inner.flatten(2), _order(counts)


def _order(counts: Tensor) -> Tensor:
    """Distinct priorities (B, K·P) of keypoints (B, K, P), the strongest of each plane first.

    Args:
        counts: (B, K, P) bool, keypoints that count, sorted by strength.
    """
    place = (counts.cumsum(-1) - 1).clamp_min(0) / counts.sum(-1, keepdim=True).clamp_min(1)
    flat = (place.flatten(1) * 2**20).long()
    return flat * flat.shape[1] + torch.arange(flat.shape[1], device=flat.device)


def cell_labels(points: Tensor, chosen: Tensor, order: Tensor, rows: int, columns: int) -> Tensor:
    """Detector targets (B, rows, columns) int64, as from `data.detector_labels.cell_labels`.

    Args:
        points: (B, N, 2) xy in pixels.
        chosen: (B, N) bool, points that are keypoints.
        order: (B, N) int64, distinct; the point with the lowest number wins in a cell.
    """
    at = torch.where(chosen[..., None], points, 0.0).round().long()
    x, y = at.unbind(-1)
    last = rows * columns
    cell = torch.where(chosen, y // CELL * columns + x // CELL, last)
    far = torch.iinfo(torch.int64).max
    best = torch.full((len(points), last + 1), far, dtype=torch.int64, device=points.device)
    best = best.scatter_reduce(1, cell, order, "amin")[:, :last]
    winner = torch.where(best == far, 0, best % points.shape[1])
    labels = (y % CELL * CELL + x % CELL).gather(1, winner)
    return torch.where(best == far, NO_KEYPOINT, labels).view(-1, rows, columns)

"""Batches of views and scenes made on a device; the counterpart of `data.view_pairs`,
`data.scene_view_pairs` and `data.scenes`, which make single samples."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from featherglue.data.detector_labels import CELL, NO_KEYPOINT
from featherglue.data.scenes import NO_PLANE, SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.train.batched.atlas import Atlas, Textures
from featherglue.train.batched.augmentation import augment_images
from featherglue.train.batched.draws import Draws
from featherglue.train.batched.geometry import (
    homographies,
    inverse,
    matrix,
    scaling,
    second_cameras,
    shift,
    tumble,
)
from featherglue.train.batched.planes import Planes, Rendered, project, readable, render

Batch = dict[str, Tensor]
_BORDER = 2  # pixels at the edge of a view without correspondences


class BatchedScenes:
    """Batches of scenes as in `data.scenes.Scenes`."""

    def __init__(self, atlas: Atlas, config: SceneConfig, seed: int = 0) -> None:
        self.atlas, self.config, self.seed = atlas, config, seed

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first`, …, `first + count − 1`.

        Returns:
            image0, image1 (B, 1, H, W) uint8; planes0, planes1 (B, H, W) uint8; maps
            (B, K, 3, 3) float32, H_0to1 of each plane.
        """
        draws = Draws(self.seed, first, self.atlas.device)
        flat = draws.chance(self.config.planar, count)
        scene = _either(
            flat, self._planar(draws, count), spatial_scenes(self.atlas, self.config, draws, count)
        )
        seen = render(self.atlas, scene, self.config.size)
        maps = scene.to_views[1] @ inverse(scene.to_views[0])
        corner = maps[..., 2:, 2:]
        maps = torch.where(corner.abs() > 1e-9, maps / corner, maps)
        usable = scene.exists & maps.isfinite().all(-1).all(-1)
        unit = torch.eye(3, device=maps.device)
        return {
            **_images(draws, seen, self.config.photometric_strength),
            "planes0": seen.planes[0],
            "planes1": seen.planes[1],
            "maps": torch.where(usable[..., None, None], maps, unit),
        }

    def _planar(self, draws: Draws, count: int) -> Planes:
        size, num_planes = self.config.size, self.config.max_planes + 1
        textures = self.atlas.draw(draws, count, num_planes)
        width, height = textures.width[:, 0], textures.height[:, 0]
        scale = torch.maximum(size[0] / width, size[1] / height) * draws.uniform(0.9, 1.3, count)
        middle = (
            torch.full_like(scale, (size[0] - 1) / 2),
            torch.full_like(scale, (size[1] - 1) / 2),
        )
        fit = shift(*middle) @ scaling(scale, scale)
        fit = fit @ shift(-(width - 1) / 2, -(height - 1) / 2)
        far = homographies(draws, size, self.config.homography, count) @ fit
        return _one_plane(textures, _swapped(draws, fit, far))


class BatchedViews:
    """Batched `data.view_pairs.ViewPairs`, mixed with `data.scene_view_pairs.SceneViewPairs`."""

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
        scene = self._flat(draws, count)
        chosen = draws.chance(self.spatial, count)  # 3D scenes
        if self.spatial:
            spatial = spatial_scenes(self.atlas, self.scenes, draws, count)
            scene = _either(~chosen, scene, spatial)
        seen = render(self.atlas, scene, self.config.size)
        batch = _images(draws, seen, self.config.photometric_strength)
        rows, columns = self._cells
        covered = (seen.planes != NO_PLANE).reshape(2, count, rows, CELL, columns, CELL)
        covered = covered.all(5).all(3)
        points, labelled, shown, order = self._keypoints(scene, seen, chosen)
        for view, name in enumerate("01"):
            batch[f"labels{name}"] = cell_labels(points[view], labelled[view], order, rows, columns)
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

    def _flat(self, draws: Draws, count: int) -> Planes:
        size = self.config.size
        num_planes = self.scenes.max_planes + 1 if self.spatial else 1
        textures = self.atlas.draw(draws, count, num_planes)
        width, height = textures.width[:, 0], textures.height[:, 0]
        side = torch.minimum(width, height) * draws.uniform(self.config.region, 1.0, count)
        x = draws.uniform(0, 1, count) * (width - side)
        y = draws.uniform(0, 1, count) * (height - side)
        fit = scaling(size[0] / side, size[1] / side) @ shift(-x, -y)
        near = homographies(draws, size, self.config.near, count) @ fit
        far = homographies(draws, size, self.config.far, count) @ fit
        return _one_plane(textures, _swapped(draws, near, far))

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
        deep = spatial[:, None, None]
        clear = readable(found, scene.to_views) | ~deep
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
        labelled = torch.where(deep, inner, within)
        return points.flatten(2, 3), labelled.flatten(2), inner.flatten(2), _order(counts)


def spatial_scenes(atlas: Atlas, config: SceneConfig, draws: Draws, count: int) -> Planes:
    """`count` 3D scenes: planes of random poses before a background, and a camera that moves."""
    size, num_planes = config.size, config.max_planes + 1
    focal = draws.uniform(0.7, 1.4, count, 1) * size[0]
    back = torch.arange(num_planes, device=atlas.device) == 0  # the background
    pick = torch.where
    textures = atlas.draw(draws, count, num_planes)
    number = draws.integers(2, num_planes + 1, count, 1)
    exists = torch.arange(num_planes, device=atlas.device) < number
    depth = pick(
        back, draws.uniform(1.6, 3.0, count, num_planes), draws.uniform(0.6, 1.5, count, num_planes)
    )
    tilt = tumble(draws, pick(back, 25.0, 60.0)[:, None], count, num_planes)
    # A photograph's width in the world, so that it fills a fraction of the view.
    fraction = pick(
        back, draws.uniform(1.6, 2.2, count, num_planes), draws.uniform(0.3, 0.9, count, num_planes)
    )
    textures = _cut(textures, draws, config, fraction * size[0])
    width, height = textures.width, textures.height
    extent = fraction * size[0] / focal * depth
    pixel = torch.maximum(extent / width, 0.75 * extent / height)
    spread = pick(back, 0.1, 0.45)[:, None]
    middle = draws.uniform(-1, 1, count, num_planes, 2) * spread * width.new_tensor(size)
    along = focal.expand(-1, num_planes)
    centre = torch.cat((middle, along[..., None]), -1) * (depth / along)[..., None]
    zero = torch.zeros_like(pixel)
    flat = matrix([[pixel, 0.0, 0.0], [0.0, pixel, 0.0], [0.0, 0.0, zero]])
    poses = tilt @ flat @ shift(-(width - 1) / 2, -(height - 1) / 2)
    poses = torch.cat((poses[..., :2], poses[..., 2:] + centre[..., None]), -1)
    K = matrix(
        [[focal, 0.0, (size[0] - 1) / 2], [0.0, focal, (size[1] - 1) / 2], [0.0, 0.0, 1.0]]
    )  # (B, 1, 3, 3)
    turned, moved = second_cameras(draws, count)
    seen = turned[:, None] @ poses
    seen = torch.cat((seen[..., :2], seen[..., 2:] + moved[:, None, :, None]), -1)
    return Planes(textures, exists, _swapped(draws, K @ poses, K @ seen))


def _cut(textures: Textures, draws: Draws, config: SceneConfig, shown: Tensor) -> Textures:
    """Regions that fill `shown` pixels of the view at a random scale."""
    if not config.detail:
        return textures
    low, high = (math.log(limit) for limit in config.detail)
    side = shown / draws.uniform(low, high, *shown.shape).exp()
    width = torch.minimum(textures.width, side.round().clamp_min(32))
    height = torch.minimum(textures.height, (0.75 * side).round().clamp_min(32))
    left = (draws.uniform(0, 1, *shown.shape) * (textures.width - width + 1)).floor()
    top = (draws.uniform(0, 1, *shown.shape) * (textures.height - height + 1)).floor()
    return replace(textures, left=left, top=top, width=width, height=height)


def _one_plane(textures: Textures, both: Tensor) -> Planes:
    """Scenes that show only the first texture of (B, K) by homographies (V, B, 3, 3)."""
    exists = torch.zeros_like(textures.mirrored)
    exists[:, 0] = True
    to_views = both[:, :, None].expand(-1, -1, exists.shape[1], -1, -1)
    return Planes(textures, exists, to_views)


def _swapped(draws: Draws, first: Tensor, second: Tensor) -> Tensor:
    """Both tensors (B, …) in random order, (V, B, …)."""
    swap = draws.chance(0.5, len(first)).view(-1, *[1] * (first.ndim - 1))
    return torch.stack((torch.where(swap, second, first), torch.where(swap, first, second)))


def _either(chosen: Tensor, one: Planes, other: Planes) -> Planes:
    """The scenes `one` where `chosen` (B,) is true, else the scenes `other`."""
    pick = chosen[:, None]
    textures = Textures(
        **{
            name: torch.where(pick, value, getattr(other.textures, name))
            for name, value in vars(one.textures).items()
        }
    )
    to_views = torch.where(pick[..., None, None], one.to_views, other.to_views)
    return Planes(textures, torch.where(pick, one.exists, other.exists), to_views)


def _images(draws: Draws, seen: Rendered, strength: float) -> Batch:
    """Both views with independent photometric augmentation."""
    changed = augment_images(draws, seen.images.flatten(0, 1), strength)
    image0, image1 = changed[:, None].chunk(2)
    return {"image0": image0, "image1": image1}


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

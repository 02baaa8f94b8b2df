"""Batches of scenes made on a device; the counterpart of `data.scenes`, which makes single ones."""

from __future__ import annotations

import torch

from featherglue.data.scenes import SceneConfig
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
from featherglue.train.batched.planes import Planes, render
from featherglue.train.engine.loader import Batch


class BatchedScenes:
    """Batches of scenes as in `data.scenes.Scenes`.

    Args:
        atlas: the photographs.
        config: settings of the scenes.
        seed: seed of the random numbers.
    """

    def __init__(self, atlas: Atlas, config: SceneConfig, seed: int = 0) -> None:
        self.atlas, self.config, self.seed = atlas, config, seed

    def batch(self, first: int, count: int) -> Batch:
        """The samples `first`, …, `first + count − 1`.

        Returns:
            image0, image1 (B, 1, H, W) uint8; planes0, planes1 (B, H, W) uint8; maps
            (B, K, 3, 3) float32, H_0to1 of each plane.
        """
        draws = Draws(self.seed, first, self.atlas.device)
        planar = draws.chance(self.config.planar, count)
        scene = select_scenes(
            planar,
            self._planar(draws, count),
            spatial_scenes(self.atlas, self.config, draws, count),
        )
        seen = render(self.atlas, scene, self.config.size)
        maps = scene.to_views[1] @ inverse(scene.to_views[0])
        corner = maps[..., 2:, 2:]
        maps = torch.where(corner.abs() > 1e-9, maps / corner, maps)
        usable = scene.exists & maps.isfinite().all(-1).all(-1)
        unit = torch.eye(3, device=maps.device)
        return {
            **augment_views(draws, seen.images, self.config.photometric_strength),
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
        fit = translation(*middle) @ scaling(scale, scale)
        fit = fit @ translation(-(width - 1) / 2, -(height - 1) / 2)
        far = homographies(draws, size, self.config.homography, count) @ fit
        return single_plane_scenes(textures, in_random_order(draws, fit, far))

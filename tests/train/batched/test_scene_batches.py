"""Batches of scenes against single scenes."""

from __future__ import annotations

import numpy as np
import torch
from batched_cases import SIZE, assert_depends_only_on_seed_and_index, whole

from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes
from featherglue.train.batched.atlas import Atlas
from featherglue.train.batched.planes import Planes, project, render
from featherglue.train.batched.scene_batches import BatchedScenes
from featherglue.train.losses.true_assignment import true_assignment


def test_batched_scenes_resemble_single_scenes(photos: PhotoFolder, atlas: Atlas) -> None:
    config = SceneConfig(size=SIZE, max_planes=3, photometric_strength=0)
    for seed in range(6):
        scene = Scenes(photos, config).draw_scene(np.random.default_rng(seed))
        photo = torch.tensor([[crop.index for crop in scene.crops]])
        mirrored = torch.tensor([[crop.mirrored for crop in scene.crops]])
        to_views = torch.from_numpy(np.array(scene.to_views)).float()[:, None]
        planes = Planes(whole(atlas, photo, mirrored), torch.ones_like(mirrored), to_views)
        seen = render(atlas, planes, SIZE)
        for view in range(2):
            ids, image = seen.planes[view, 0].numpy(), seen.images[view, 0].numpy()
            same = ids == scene.planes[view]
            assert same.mean() > 0.96  # planes end a pixel earlier there
            shown = same & (ids != NO_PLANE)
            difference = np.abs(image - scene.images[view].astype(np.float32))[shown]
            assert np.median(difference) < 2


def test_scene_homographies_map_equal_content(atlas: Atlas) -> None:
    batch = BatchedScenes(
        atlas, SceneConfig(size=SIZE, max_planes=3, planar=0.5, photometric_strength=0)
    ).batch(0, 12)
    assert batch["maps"].shape == (12, 4, 3, 3) and batch["maps"].isfinite().all()
    y, x = torch.meshgrid(torch.arange(4, 64, 6), torch.arange(4, 96, 6), indexing="ij")
    grid = torch.stack((x, y), -1).reshape(1, -1, 2).float().expand(12, -1, -1)
    planes0, planes1 = batch["planes0"], batch["planes1"]
    chosen = planes0[:, y, x].flatten(1).long()
    maps = batch["maps"].gather(1, chosen.clamp_max(3)[..., None, None].expand(-1, -1, 3, 3))
    projected = project(grid[:, :, None], maps)[:, :, 0]
    valid = (chosen != NO_PLANE) & projected.isfinite().all(-1)
    projected = projected.nan_to_num(-100)
    truth = true_assignment(grid, projected, planes0, planes1, batch["maps"], valid, valid)
    pairs = truth.matches.nonzero()
    assert len(pairs) > 300
    # Both views have similar gray values where both show the same point.
    first = batch["image0"][:, 0][pairs[:, 0], y.flatten()[pairs[:, 1]], x.flatten()[pairs[:, 1]]]
    at = projected[pairs[:, 0], pairs[:, 2]].round().long()
    second = batch["image1"][:, 0][pairs[:, 0], at[:, 1], at[:, 0]]
    apart = (first.float() - second.float()).abs()
    assert apart.median() < 8 < (first.float() - second.float().roll(1)).abs().median()


def test_scenes_depend_only_on_seed_and_index(atlas: Atlas) -> None:
    assert_depends_only_on_seed_and_index(BatchedScenes(atlas, SceneConfig(size=SIZE), 1))

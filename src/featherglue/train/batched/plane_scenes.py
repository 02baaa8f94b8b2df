"""Random scenes of textured planes, as in `data.scenes`.

Shape legend: B scenes, K planes, V = 2 views.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from featherglue.data.scenes import SceneConfig
from featherglue.train.batched.atlas import Atlas, Textures
from featherglue.train.batched.draws import Draws
from featherglue.train.batched.geometry import matrix, random_rotations, second_cameras, translation
from featherglue.train.batched.planes import Planes


def spatial_scenes(atlas: Atlas, config: SceneConfig, draws: Draws, count: int) -> Planes:
    """`count` 3D scenes: planes of random poses before a background, and a camera that moves.

    Args:
        config: `size`, `max_planes` and `detail` are used.

    Returns:
        Scenes of `max_planes + 1` planes; the first one is the background.
    """
    size, num_planes = config.size, config.max_planes + 1
    focal = draws.uniform(0.7, 1.4, count, 1) * size[0]
    is_background = torch.arange(num_planes, device=atlas.device) == 0
    textures = atlas.draw(draws, count, num_planes)
    number = draws.integers(2, num_planes + 1, count, 1)
    exists = torch.arange(num_planes, device=atlas.device) < number
    depth = torch.where(
        is_background,
        draws.uniform(1.6, 3.0, count, num_planes),
        draws.uniform(0.6, 1.5, count, num_planes),
    )
    tilt = random_rotations(
        draws, torch.where(is_background, 25.0, 60.0)[:, None], count, num_planes
    )
    # Width of a plane in the view as a fraction of the width of the view.
    fraction = torch.where(
        is_background,
        draws.uniform(1.6, 2.2, count, num_planes),
        draws.uniform(0.3, 0.9, count, num_planes),
    )
    textures = _random_regions(textures, draws, config, fraction * size[0])
    width, height = textures.width, textures.height
    extent = fraction * size[0] / focal * depth  # width of a plane in the world
    pixel = torch.maximum(extent / width, 0.75 * extent / height)
    spread = torch.where(is_background, 0.1, 0.45)[:, None]
    middle = draws.uniform(-1, 1, count, num_planes, 2) * spread * width.new_tensor(size)
    focals = focal.expand(-1, num_planes)
    center = torch.cat((middle, focals[..., None]), -1) * (depth / focals)[..., None]
    zero = torch.zeros_like(pixel)
    flat = matrix([[pixel, 0.0, 0.0], [0.0, pixel, 0.0], [0.0, 0.0, zero]])
    poses = tilt @ flat @ translation(-(width - 1) / 2, -(height - 1) / 2)
    poses = torch.cat((poses[..., :2], poses[..., 2:] + center[..., None]), -1)
    K = matrix(
        [[focal, 0.0, (size[0] - 1) / 2], [0.0, focal, (size[1] - 1) / 2], [0.0, 0.0, 1.0]]
    )  # (B, 1, 3, 3)
    turned, moved = second_cameras(draws, count)
    seen = turned[:, None] @ poses
    seen = torch.cat((seen[..., :2], seen[..., 2:] + moved[:, None, :, None]), -1)
    return Planes(textures, exists, in_random_order(draws, K @ poses, K @ seen))


def _random_regions(
    textures: Textures, draws: Draws, config: SceneConfig, shown: Tensor
) -> Textures:
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


def single_plane_scenes(textures: Textures, both: Tensor) -> Planes:
    """Scenes that show only the first texture of (B, K) by homographies (V, B, 3, 3)."""
    exists = torch.zeros_like(textures.mirrored)
    exists[:, 0] = True
    to_views = both[:, :, None].expand(-1, -1, exists.shape[1], -1, -1)
    return Planes(textures, exists, to_views)


def in_random_order(draws: Draws, first: Tensor, second: Tensor) -> Tensor:
    """Both tensors (B, …) in random order, (V, B, …)."""
    swap = draws.chance(0.5, len(first)).view(-1, *[1] * (first.ndim - 1))
    return torch.stack((torch.where(swap, second, first), torch.where(swap, first, second)))


def select_scenes(chosen: Tensor, one: Planes, other: Planes) -> Planes:
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

"""Batches of scenes: textured planes seen by two cameras.

Shape legend: B scenes, K planes, P keypoints of a texture, V = 2 views of W×H pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from featherglue.data.scenes import NO_PLANE
from featherglue.train.batched.atlas import Atlas, Textures
from featherglue.train.batched.geometry import determinant, inverse


@dataclass(frozen=True, eq=False)
class Planes:
    """Scenes of several planes.

    Attributes:
        textures: (B, K), the textures of the planes.
        exists: (B, K) bool, whether a plane exists.
        to_views: (V, B, K, 3, 3), texture to view; the third coordinate is the depth.
    """

    textures: Textures
    exists: Tensor
    to_views: Tensor


@dataclass(frozen=True, eq=False)
class Rendered:
    """Rendered views of scenes.

    Attributes:
        images: (V, B, H, W) float32 in [0, 255], 0 without a plane.
        planes: (V, B, H, W) uint8, the plane of each pixel, 255 for none.
    """

    images: Tensor
    planes: Tensor


def render(atlas: Atlas, scene: Planes, size: tuple[int, int]) -> Rendered:
    """Both views of every scene, of `size` (width, height), by a buffer of inverse depths."""
    back = inverse(scene.to_views)
    usable = scene.exists & back.isfinite().all(-1).all(-1)  # (V, B, K)
    x = torch.arange(size[0], device=atlas.device, dtype=torch.float32)
    y = torch.arange(size[1], device=atlas.device, dtype=torch.float32)[:, None]
    shape = (*usable.shape[:2], size[1], size[0])
    nearest = torch.zeros(shape, device=atlas.device)  # inverse depth
    shown = torch.full(shape, NO_PLANE, dtype=torch.int64, device=atlas.device)
    at_u, at_v = torch.zeros_like(nearest), torch.zeros_like(nearest)
    for k in range(usable.shape[2]):
        entries = back[:, :, k].flatten(-2)[..., None, None].unbind(2)
        a, b, c, d, e, f, g, h, i = entries  # each (V, B, 1, 1)
        # H·(u, v, 1) = depth·(x, y, 1), so H⁻¹·(x, y, 1) = (u, v, 1) / depth.
        inverse_depth = g * x + h * y + i
        u, v = (a * x + b * y + c) / inverse_depth, (d * x + e * y + f) / inverse_depth
        width, height = (
            extent[:, k, None, None] for extent in (scene.textures.width, scene.textures.height)
        )
        visible = usable[:, :, k, None, None]
        visible = visible & (inverse_depth > nearest) & (inverse_depth < 20)
        visible &= (u >= 0) & (v >= 0) & (u <= width - 1) & (v <= height - 1)
        nearest = torch.where(visible, inverse_depth, nearest)
        shown = shown.masked_fill(visible, k)
        at_u, at_v = torch.where(visible, u, at_u), torch.where(visible, v, at_v)
    some = shown != NO_PLANE
    index = torch.where(some, shown, 0)
    seen = Textures(
        **{
            field.name: _of_pixels(getattr(scene.textures, field.name), index)
            for field in fields(Textures)
        }
    )
    level = _levels(scene.to_views, back, size)
    chosen = level.gather(2, index.flatten(2)).view(shape)
    images = atlas.sample(seen, at_u, at_v, chosen)
    return Rendered(images * some, shown.to(torch.uint8))


def _of_pixels(values: Tensor, index: Tensor) -> Tensor:
    """The value of the plane of each pixel, (V, B, H, W), from the values of planes (B, K)."""
    both = values.expand(len(index), *values.shape)
    return both.gather(2, index.flatten(2)).view(index.shape)


def _levels(to_views: Tensor, back: Tensor, size: tuple[int, int]) -> Tensor:
    """Number of times (V, B, K) that the texture of a plane is halved for a view.

    It is 1 below a scale of 0.6, as in `warp_image`, and 2 below 0.3.
    """
    middle = back.new_tensor([(size[0] - 1) / 2, (size[1] - 1) / 2, 1.0])
    center = back @ middle
    w = (to_views[..., 2, :] * (center / center[..., 2:])).sum(-1)
    # The determinant of the Jacobian of a homography H at a point is det(H) / w³.
    scale = (determinant(to_views).abs() / w.abs() ** 3).sqrt()
    halvings: Tensor = (scale < 0.6).long() + (scale < 0.3).long()
    return halvings


def project(points: Tensor, homographies: Tensor) -> Tensor:
    """Points (…, P, 2) mapped by homographies (…, 3, 3); NaN behind the horizon."""
    mapped = points @ homographies[..., :2].mT + homographies[..., 2][..., None, :]
    w = mapped[..., 2:]
    return torch.where(w > 1e-9, mapped[..., :2] / w, torch.nan)


def are_resolved(points: Tensor, homographies: Tensor) -> Tensor:
    """Whether a view shows points of textures large and frontal enough to be detected.

    As in `data.scene_view_pairs.is_resolved`.

    Args:
        points: (…, P, 2) xy in pixels of the textures.
        homographies: (…, 3, 3), from texture to view.

    Returns:
        (…, P) bool.
    """
    mapped = points @ homographies[..., :2].mT + homographies[..., 2][..., None, :]
    w = mapped[..., 2:].clamp_min(1e-9)
    across, down = (
        (homographies[..., None, :2, i] - mapped[..., :2] / w * homographies[..., None, 2:, i]) / w
        for i in range(2)
    )
    trace = (across**2).sum(-1) + (down**2).sum(-1)
    area = across[..., 0] * down[..., 1] - across[..., 1] * down[..., 0]
    largest = (trace + (trace**2 - 4 * area**2).clamp_min(0).sqrt()) / 2
    smallest = area**2 / largest.clamp_min(1e-12)
    return (smallest > 0.25**2) & (smallest > 0.2**2 * largest)

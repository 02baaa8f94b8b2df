"""SuperPoint's post-processing in PyTorch, batched: for training, labelling and parity tests.

`featherglue.matching.keypoints` does the same on one image in NumPy for every runtime.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.options import Sampling


def suppress(scores: Tensor, radius: int) -> Tensor:
    """Non-maximum suppression: what lies within `radius` of a stronger pixel becomes 0.

    Two more rounds bring back maxima that were hidden only by pixels that fell themselves
    (SuperPoint's published procedure).

    Args:
        scores: (B, H, W) in [0, 1].
    """
    if radius == 0:
        return scores

    def pool(x: Tensor) -> Tensor:
        # Rows, then columns, each as a maximum of shifted copies: fast on a CPU.
        for axis in (-2, -1):
            size = x.shape[axis]
            wide = F.pad(x, (radius, radius) if axis == -1 else (0, 0, radius, radius), value=-1.0)
            x = wide.narrow(axis, 0, size)
            for offset in range(1, 2 * radius + 1):
                x = torch.maximum(x, wide.narrow(axis, offset, size))
        return x

    zeros = torch.zeros_like(scores)
    maxima = scores == pool(scores)
    for _ in range(2):
        near = pool(maxima.float()) > 0
        rest = torch.where(near, zeros, scores)
        maxima = maxima | ((rest == pool(rest)) & ~near)
    return torch.where(maxima, scores, zeros)


def clear_borders(scores: Tensor, border: int) -> Tensor:
    """Set `border` pixels along the edges of (B, H, W) to −1."""
    if border == 0:
        return scores
    cleared = torch.full_like(scores, -1.0)
    inner = (slice(None), slice(border, -border), slice(border, -border))
    cleared[inner] = scores[inner]
    return cleared


def strongest(
    scores: Tensor, count: int, radius: int, border: int, threshold: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The `count` strongest keypoints of each score map.

    Args:
        scores: (B, H, W) in [0, 1], before suppression.

    Returns:
        keypoints (B, count, 2) float xy at whole pixels; scores (B, count), descending; valid
        (B, count) bool, False where an image has fewer keypoints above the threshold.
    """
    height, width = scores.shape[1:]
    kept = clear_borders(suppress(scores, radius), border).flatten(1)
    values, index = kept.topk(min(count, height * width), dim=1)
    keypoints = torch.stack((index % width, index // width), -1).float()
    return keypoints, values, values > threshold


def sample_descriptors(descriptors: Tensor, keypoints: Tensor, sampling: Sampling) -> Tensor:
    """Bilinear descriptors at keypoints.

    Args:
        descriptors: (B, D, Hc, Wc).
        keypoints: (B, N, 2) xy pixels.
        sampling: "published" repeats DeTone's grid, whose outermost samples touch the outermost
            cell centres (align_corners); "exact" interpolates between cell centres at
            (8·i + 3.5) and repeats the border.

    Returns:
        (B, N, D), L2-normalised.
    """
    height, width = descriptors.shape[2:]
    size = keypoints.new_tensor([width, height]) * 8
    if sampling == "published":
        grid = (keypoints - 3.5) / (size - 4.5) * 2 - 1
        sampled = F.grid_sample(descriptors, grid[:, None], align_corners=True)
    else:
        grid = (keypoints + 0.5) / size * 2 - 1
        sampled = F.grid_sample(
            descriptors, grid[:, None], align_corners=False, padding_mode="border"
        )
    return F.normalize(sampled[:, :, 0], dim=1).transpose(1, 2)


def subpixel_offsets(scores: Tensor, keypoints: Tensor) -> Tensor:
    """Where each maximum lies within its pixel: parabolas through the log scores in x and in y.

    Args:
        scores: (B, H, W), before suppression. keypoints: (B, N, 2) at whole pixels.

    Returns:
        (B, N, 2) in [−0.5, 0.5].
    """
    height, width = scores.shape[1:]
    logs = scores.clamp_min(1e-8).log().flatten(1)
    x, y = keypoints.long().unbind(-1)

    def at(dx: int, dy: int) -> Tensor:
        column, row = (x + dx).clamp(0, width - 1), (y + dy).clamp(0, height - 1)
        return logs.gather(1, row * width + column)

    centre = at(0, 0)
    offsets = []
    for dx, dy in ((1, 0), (0, 1)):
        before, after = at(-dx, -dy), at(dx, dy)
        offsets.append((after - before) / 2 / (2 * centre - before - after).clamp_min(1e-6))
    return torch.stack(offsets, -1).clamp(-0.5, 0.5)

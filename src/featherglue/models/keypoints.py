"""Post-processing of SuperPoint in PyTorch: the batched twin of `matching.keypoints`.

Training and labeling use it. Sessions use `matching.keypoints` and `matching.nms`, which are in
NumPy and process one image.

Shape legend: B images, H×W pixels, Hc×Wc cells, N keypoints, D descriptor width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.options import Sampling


def non_maximum_suppression(scores: Tensor, radius: int) -> Tensor:
    """Set all pixels that are not local maxima to 0.

    A local maximum has no higher score within the square window of `radius`. As published, two
    more rounds add the maxima among the pixels that only suppressed pixels had suppressed.

    Args:
        scores: (B, H, W) in [0, 1].
        radius: pixels; 0 returns the scores.

    Returns:
        (B, H, W).
    """
    if radius == 0:
        return scores

    def max_pool(x: Tensor) -> Tensor:
        # The maximum of shifted copies, by rows, then by columns, is fast on a CPU.
        for axis in (-2, -1):
            size = x.shape[axis]
            wide = F.pad(x, (radius, radius) if axis == -1 else (0, 0, radius, radius), value=-1.0)
            x = wide.narrow(axis, 0, size)
            for offset in range(1, 2 * radius + 1):
                x = torch.maximum(x, wide.narrow(axis, offset, size))
        return x

    zeros = torch.zeros_like(scores)
    maxima = scores == max_pool(scores)
    for _ in range(2):
        suppressed = max_pool(maxima.float()) > 0
        remaining = torch.where(suppressed, zeros, scores)
        maxima = maxima | ((remaining == max_pool(remaining)) & ~suppressed)
    return torch.where(maxima, scores, zeros)


def mask_borders(scores: Tensor, border: int) -> Tensor:
    """Set `border` pixels along the edges of score maps (B, H, W) to −1."""
    if border == 0:
        return scores
    masked = torch.full_like(scores, -1.0)
    inner = (slice(None), slice(border, -border), slice(border, -border))
    masked[inner] = scores[inner]
    return masked


def find_keypoints(
    scores: Tensor, count: int, radius: int, border: int, threshold: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest keypoints of each score map.

    Args:
        scores: (B, H, W) in [0, 1], before non-maximum suppression.
        count: number of keypoints N of each image.
        radius: radius of the non-maximum suppression, pixels.
        border: width of the border without keypoints, pixels.
        threshold: minimum score of a valid keypoint.

    Returns:
        Keypoints (B, N, 2) float xy at whole pixels; scores (B, N), descending; valid (B, N) bool,
        False where an image has fewer than N keypoints above the threshold.
    """
    height, width = scores.shape[1:]
    kept = mask_borders(non_maximum_suppression(scores, radius), border).flatten(1)
    values, index = kept.topk(min(count, height * width), dim=1)
    keypoints = torch.stack((index % width, index // width), -1).float()
    return keypoints, values, values > threshold


def sample_descriptors(descriptors: Tensor, keypoints: Tensor, sampling: Sampling) -> Tensor:
    """Descriptors at keypoints, by bilinear interpolation.

    Args:
        descriptors: (B, D, Hc, Wc).
        keypoints: (B, N, 2) xy pixels.
        sampling: "published" is the grid of the published code, whose outermost samples lie on
            the centers of the outermost cells; "exact" has cell centers at 8·i + 3.5 and repeats
            the border.

    Returns:
        (B, N, D), L2-normalized.
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
    """Offsets of the maxima within their pixels: parabolas through the log scores in x and in y.

    Args:
        scores: (B, H, W), before non-maximum suppression.
        keypoints: (B, N, 2) xy at whole pixels.

    Returns:
        (B, N, 2) in [−0.5, 0.5] pixels.
    """
    height, width = scores.shape[1:]
    logs = scores.clamp_min(1e-8).log().flatten(1)
    x, y = keypoints.long().unbind(-1)

    def at(dx: int, dy: int) -> Tensor:
        column, row = (x + dx).clamp(0, width - 1), (y + dy).clamp(0, height - 1)
        return logs.gather(1, row * width + column)

    center = at(0, 0)
    offsets = []
    for dx, dy in ((1, 0), (0, 1)):
        before, after = at(-dx, -dy), at(dx, dy)
        offsets.append((after - before) / 2 / (2 * center - before - after).clamp_min(1e-6))
    return torch.stack(offsets, -1).clamp(-0.5, 0.5)

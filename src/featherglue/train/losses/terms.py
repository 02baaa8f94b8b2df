"""Losses of both networks.

Shape legend: B pairs, P correspondences (padded), Hc×Wc cells, D descriptor width, N0/N1
keypoints (padded) of the two images.
"""

from __future__ import annotations

import torch
from torch import Tensor


def detector_loss(
    logits: Tensor, labels: Tensor, inside: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the 65 classes of each cell (DeTone 2018, equation 2).

    Args:
        logits: (B, 65, Hc, Wc). labels: (B, Hc, Wc) int64 in [0, 64].
        inside: (B, Hc, Wc) bool; cells outside the photograph do not count.
        weights: (B, Hc, Wc) in [0, 1], the probability of each label; the rest goes to "no
            keypoint". None trusts all labels.
    """
    logs = logits.float().log_softmax(1)
    loss = -logs.gather(1, labels[:, None])[:, 0]
    if weights is not None:
        loss = weights * loss - (1 - weights) * logs[:, -1]
    return (loss * inside).sum() / inside.sum().clamp_min(1)


@torch.no_grad()
def label_weights(labels: Tensor, points: Tensor, trust: Tensor, real: Tensor) -> Tensor:
    """The trust in each cell's label: that of its point where the label is one, 1 elsewhere.

    Args:
        labels: (B, Hc, Wc). points: (B, P, 2) xy. trust: (B, P) in [0, 1].
        real: (B, P) bool, points that are not padding.

    Returns:
        (B, Hc, Wc).
    """
    height, width = labels.shape[1:]
    x, y = points.round().long().unbind(-1)
    cell = (y // 8).clamp(0, height - 1) * width + (x // 8).clamp(0, width - 1)
    own = real & (labels.flatten(1).gather(1, cell) == y % 8 * 8 + x % 8)
    weights = torch.ones(labels.shape[0], height * width + 1, device=labels.device)
    weights.scatter_(1, cell.where(own, height * width), trust.float().where(own, 1.0))
    return weights[:, :-1].reshape(labels.shape)


def real_points(count: Tensor, most: int) -> Tensor:
    """The mask (B, most) of points that are not padding, from their numbers (B,)."""
    return torch.arange(most, device=count.device)[None] < count[:, None]


def similarity(descriptors0: Tensor, descriptors1: Tensor, real: Tensor) -> Tensor:
    """Cosine similarities (B, P, P), −1e4 where one of both is not real (B, P)."""
    with torch.autocast(descriptors0.device.type, enabled=False):
        cosine = descriptors0.float() @ descriptors1.float().transpose(1, 2)
    return cosine.masked_fill(~(real[:, :, None] & real[:, None]), -1e4)


def dual_softmax_loss(cosine: Tensor, real: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the diagonal under softmax in both directions.

    Args:
        cosine: (B, P, P) of corresponding points in the same order, −1e4 where padded.
        real: (B, P) bool.

    Returns:
        the loss; (B, P) without gradient, for each point the geometric mean of the two
        probabilities of its partner.
    """
    scaled = cosine / temperature
    both = scaled.log_softmax(1) + scaled.log_softmax(2)
    losses = -both.diagonal(dim1=1, dim2=2) / 2
    loss = losses.masked_fill(~real, 0).sum() / real.sum().clamp_min(1)
    return loss, (-losses.detach()).exp()


def nearest_share(cosine: Tensor, real: Tensor) -> Tensor:
    """Share of real points whose nearest descriptor in the other image is their partner."""
    hit = cosine.argmax(2) == torch.arange(cosine.shape[1], device=cosine.device)
    return (hit & real).sum() / real.sum().clamp_min(1)

"""Losses of both networks.

Shape legend: B pairs, P correspondences (padded), Hc×Wc cells, D descriptor width, N0/N1
keypoints (padded) of the two images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def detector_loss(logits: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    """Cross-entropy over the 65 classes of each cell (DeTone 2018, equation 2).

    Args:
        logits: (B, 65, Hc, Wc). labels: (B, Hc, Wc) int64 in [0, 64].
        inside: (B, Hc, Wc) bool; cells outside the photograph do not count.
    """
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return (loss * inside).sum() / inside.sum().clamp_min(1)


def similarity(descriptors0: Tensor, descriptors1: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarities (B, P, P), −1e4 where padded, and the mask (B, P) of real points."""
    real = torch.arange(descriptors0.shape[1], device=count.device)[None] < count[:, None]
    cosine = descriptors0.float() @ descriptors1.float().transpose(1, 2)
    return cosine.masked_fill(~(real[:, :, None] & real[:, None]), -1e4), real


def dual_softmax_loss(cosine: Tensor, real: Tensor, temperature: float) -> Tensor:
    """Negative log-likelihood of the diagonal under softmax in both directions.

    Args:
        cosine: (B, P, P) of corresponding points in the same order, −1e4 where padded.
        real: (B, P) bool.
    """
    scaled = cosine / temperature
    both = scaled.log_softmax(1) + scaled.log_softmax(2)
    losses = -both.diagonal(dim1=1, dim2=2) / 2
    return losses.masked_fill(~real, 0).sum() / real.sum().clamp_min(1)


def nearest_share(cosine: Tensor, real: Tensor) -> Tensor:
    """Share of real points whose nearest descriptor in the other image is their partner."""
    hit = cosine.argmax(2) == torch.arange(cosine.shape[1], device=cosine.device)
    return (hit & real).sum() / real.sum().clamp_min(1)

"""The loss of the keypoint detector (DeTone, Malisiewicz, Rabinovich: SuperPoint, 2018).

Shape legend: B images, P points (padded), Hc×Wc cells.
"""

from __future__ import annotations

import torch
from torch import Tensor


def detector_loss(
    logits: Tensor, labels: Tensor, inside: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy over the 65 classes of each cell (DeTone 2018, equation 2).

    Args:
        logits: (B, 65, Hc, Wc).
        labels: (B, Hc, Wc) int64 in [0, 64]; 64 is "no keypoint".
        inside: (B, Hc, Wc) bool; cells outside the photograph do not count.
        weights: (B, Hc, Wc) in [0, 1], probability of each label; the rest goes to "no keypoint".
            None means 1 everywhere.

    Returns:
        Scalar in nats, the mean over the cells inside; 0 if there are none.
    """
    logs = logits.float().log_softmax(1)
    loss = -logs.gather(1, labels[:, None])[:, 0]
    if weights is not None:
        loss = weights * loss - (1 - weights) * logs[:, -1]
    return (loss * inside).sum() / inside.sum().clamp_min(1)


@torch.no_grad()
def label_weights(labels: Tensor, points: Tensor, confidence: Tensor, valid: Tensor) -> Tensor:
    """The weight of each cell's label: the confidence of the point that it encodes, else 1.

    Args:
        labels: (B, Hc, Wc) int64 in [0, 64].
        points: (B, P, 2) xy in pixels.
        confidence: (B, P) in [0, 1].
        valid: (B, P) bool, False for padding.

    Returns:
        (B, Hc, Wc) float32 in [0, 1].
    """
    height, width = labels.shape[1:]
    x, y = points.round().long().unbind(-1)
    cell = (y // 8).clamp(0, height - 1) * width + (x // 8).clamp(0, width - 1)
    encoded = valid & (labels.flatten(1).gather(1, cell) == y % 8 * 8 + x % 8)
    weights = torch.ones(labels.shape[0], height * width + 1, device=labels.device)
    weights.scatter_(1, cell.where(encoded, height * width), confidence.float().where(encoded, 1.0))
    return weights[:, :-1].reshape(labels.shape)

"""The dual-softmax loss on descriptors at known correspondences.

The match probabilities are those of Sun et al.: LoFTR (2021), up to a square root.

Shape legend: B pairs of views, P correspondences (padded), D descriptor dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor


def valid_points(count: Tensor, length: int) -> Tensor:
    """The mask (B, length) bool of points that are not padding, from their numbers (B,)."""
    return torch.arange(length, device=count.device)[None] < count[:, None]


def cosine_similarity(descriptors0: Tensor, descriptors1: Tensor, valid: Tensor) -> Tensor:
    """Cosine similarities (B, P, P) of unit descriptors (B, P, D); −1e4 for padding (B, P)."""
    with torch.autocast(descriptors0.device.type, enabled=False):
        cosine = descriptors0.float() @ descriptors1.float().transpose(1, 2)
    return cosine.masked_fill(~(valid[:, :, None] & valid[:, None]), -1e4)


def same_places(scene: Tensor, positions: Tensor, uncertainties: Tensor, valid: Tensor) -> Tensor:
    """Which points of different samples may be one point of a scene: no negatives of each other.

    Args:
        scene: (B,) numbers of the scenes; negative ones are unknown.
        positions: (B, P, 3) of the points in the scenes; NaN is anywhere.
        uncertainties: (B, P) of the positions.
        valid: (B, P) bool, False for padding.

    Returns:
        (N, N) bool over the N valid points of all samples; False within a sample.
    """
    sample = torch.arange(len(scene), device=scene.device)[:, None].expand_as(valid)[valid]
    number = scene[sample]
    together = (number[:, None] == number) & (number >= 0) & (sample[:, None] != sample)
    where, reach = positions[valid], uncertainties[valid]
    apart = torch.cdist(where, where) > torch.maximum(reach[:, None], reach)
    return together & ~apart


def dual_softmax_loss(cosine: Tensor, valid: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Negative log-likelihood of the diagonal under a softmax in both directions.

    Args:
        cosine: (B, P, P) similarities of corresponding points in the same order, −1e4 for padding.
        valid: (B, P) bool, False for padding.
        temperature: divides the similarities; positive.

    Returns:
        The loss, a scalar in nats, 0 without valid points; and the match probability of each
        point, (B, P) in [0, 1] without gradient: the geometric mean over both directions.
    """
    scaled = cosine / temperature
    both = scaled.log_softmax(1) + scaled.log_softmax(2)
    losses = -both.diagonal(dim1=1, dim2=2) / 2
    loss = losses.masked_fill(~valid, 0).sum() / valid.sum().clamp_min(1)
    return loss, (-losses.detach()).exp()


def labeled_softmax_loss(
    descriptors0: Tensor,
    descriptors1: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    matches: Tensor,
    temperature: float,
) -> Tensor:
    """Negative log-likelihood of the true matches of keypoints, of which some have none.

    Args:
        descriptors0, descriptors1: (B, N0, D) and (B, N1, D) unit descriptors.
        valid0, valid1: (B, N0) and (B, N1) bool, False for padding.
        matches: (B, N0, N1) bool, true matches.
        temperature: divides the similarities; positive.

    Returns:
        The loss of `dual_softmax_loss`, a scalar in nats: the mean over the matches.
    """
    with torch.autocast(descriptors0.device.type, enabled=False):
        cosine = descriptors0.float() @ descriptors1.float().transpose(1, 2)
    scaled = cosine.masked_fill(~(valid0[:, :, None] & valid1[:, None]), -1e4) / temperature
    both = scaled.log_softmax(1) + scaled.log_softmax(2)
    return -both.masked_fill(~matches, 0).sum() / 2 / matches.sum().clamp_min(1)


def nearest_neighbor_accuracy(cosine: Tensor, valid: Tensor) -> Tensor:
    """Ratio of the valid points whose nearest descriptor in view 1 is the corresponding one.

    Args:
        cosine, valid: as for `dual_softmax_loss`.

    Returns:
        Scalar in [0, 1]; 0 without valid points.
    """
    hit = cosine.argmax(2) == torch.arange(cosine.shape[1], device=cosine.device)
    return (hit & valid).sum() / valid.sum().clamp_min(1)

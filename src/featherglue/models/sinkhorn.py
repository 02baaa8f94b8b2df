"""The optimal matching layer of SuperGlue in PyTorch, with gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_FAR = -1e9
_TINY = 1e-300


def log_optimal_transport(
    scores: Tensor,
    bin_score: Tensor,
    iterations: int,
    mask0: Tensor | None = None,
    mask1: Tensor | None = None,
) -> Tensor:
    """Soft assignment of two sets of keypoints with a dustbin on each side (Sarlin 2020, 3.2).

    Sinkhorn iterations in the exponential domain (Cuturi 2013): each is two matrix-vector
    products instead of two log-sum-exps over the matrix. The computation runs in float64, also
    within autocast. Each row is scaled by its largest entry, and the dustbin row has a constant
    score, so no sum vanishes while the scores of a row differ by less than 700.

    Shape legend: B pairs, N0/N1 keypoints of the two images.

    Args:
        scores: (B, N0, N1) float, similarities of the keypoints.
        bin_score: scalar, the score of the dustbins.
        iterations: number of Sinkhorn iterations.
        mask0, mask1: (B, N0) and (B, N1) bool, False for padding. None means no padding.

    Returns:
        (B, N0+1, N1+1) log probabilities with the dtype of `scores`, multiplied by N0+N1 as
        published: each real row and column sums to 1. Padded rows and columns hold −1e9.
    """
    if mask0 is None:
        mask0 = scores.new_ones(scores.shape[:2], dtype=torch.bool)
    if mask1 is None:
        mask1 = scores.new_ones((scores.shape[0], scores.shape[2]), dtype=torch.bool)
    couplings = F.pad(scores.double(), (0, 1, 0, 1))
    at_bin = couplings.new_zeros(couplings.shape[1:], dtype=torch.bool)
    at_bin[-1], at_bin[:, -1] = True, True
    couplings = torch.where(at_bin, bin_score.double(), couplings)
    padded0, padded1 = F.pad(~mask0, (0, 1)), F.pad(~mask1, (0, 1))
    padded = padded0[:, :, None] | padded1[:, None]
    largest = couplings.detach().masked_fill(padded, _FAR).amax(2, keepdim=True)
    scaled = (couplings - largest).masked_fill(padded, _FAR)
    kernel = scaled.exp()
    rows = torch.cat((mask0, mask1.sum(1, keepdim=True)), 1).to(couplings)[..., None]
    columns = torch.cat((mask1, mask0.sum(1, keepdim=True)), 1).to(couplings)[..., None]
    transposed = kernel.transpose(1, 2)
    b = torch.ones_like(columns)
    a = b
    for _ in range(iterations):
        a = rows / (kernel @ b).clamp_min(_TINY)
        b = columns / (transposed @ a).clamp_min(_TINY)
    potentials = a.clamp_min(_TINY).log() + b.clamp_min(_TINY).log().transpose(1, 2)
    return (scaled + potentials).to(scores).masked_fill(padded, _FAR)

"""The optimal matching layer as it is trained: in the exponential domain, with gradients.

An iteration is two products of a matrix and a vector instead of two log-sum-exps over the matrix
(Cuturi, Sinkhorn Distances, NIPS 2013). The dustbin's row holds the same score throughout, so that
no sum over a column can vanish, and rows are scaled by their largest entry. Double precision holds
the exponentials of scores that are up to 700 apart, and autocast leaves it alone.

Shape legend: B pairs, N0/N1 keypoints of the two images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_FAR = -1e9
_TINY = 1e-300


def transport(
    scores: Tensor, bin_score: Tensor, iterations: int, mask0: Tensor, mask1: Tensor
) -> Tensor:
    """What `models.superglue.log_optimal_transport` gives, to float rounding.

    Args:
        scores: (B, N0, N1) float32. bin_score: scalar. iterations: of Sinkhorn.
        mask0, mask1: (B, N0) and (B, N1) bool, keypoints that are no padding.

    Returns:
        (B, N0+1, N1+1) log probabilities; −1e9 where padded.
    """
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
    back = kernel.transpose(1, 2)
    b = torch.ones_like(columns)
    a = b
    for _ in range(iterations):
        a = rows / (kernel @ b).clamp_min(_TINY)
        b = columns / (back @ a).clamp_min(_TINY)
    potentials = a.clamp_min(_TINY).log() + b.clamp_min(_TINY).log().transpose(1, 2)
    return (scaled + potentials).to(scores).masked_fill(padded, _FAR)

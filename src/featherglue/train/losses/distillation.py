"""How far a student's answers are from its teacher's, and what maps its descriptors to theirs.

Shape legend: B images or pairs, Hc×Wc cells, D and E widths of the student's and of the teacher's
descriptors, N0/N1 keypoints (padded) of the two views.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.train.engine.distributed import World

_MEMORY = 0.98  # of the products that a Procrustes map is fitted to, from batch to batch
Distance = Literal["cosine", "l2"]
MapKind = Literal["learned", "procrustes"]


def score_map_gap(student: Tensor, teacher: Tensor, inside: Tensor, temperature: float) -> Tensor:
    """Mean divergence KL(teacher ‖ student) of the distributions over the 65 classes of a cell.

    Softened and scaled by the temperature as in Hinton, Vinyals, Dean: Distilling the Knowledge in
    a Neural Network (2015).

    Args:
        student, teacher: (B, 65, Hc, Wc) logits. inside: (B, Hc, Wc) bool; others do not count.

    Returns:
        a scalar in nats, at least 0, and 0 where both are alike.
    """
    ours = (student.float() / temperature).log_softmax(1)
    theirs = (teacher.float() / temperature).log_softmax(1)
    gaps = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    mean: Tensor = (gaps * inside).sum() / inside.sum().clamp_min(1)
    return temperature**2 * mean


def descriptor_gap(mapped: Tensor, teacher: Tensor, distance: Distance) -> Tensor:
    """Mean distance of mapped descriptors from the teacher's.

    Args:
        mapped: (M, E), of unit descriptors. teacher: (M, E), L2-normalised.
        distance: "cosine", 1 − cosine in [0, 2]; or "l2", the squared distance as they are.

    Returns:
        a scalar; 0 of no descriptors.
    """
    if distance == "cosine":
        gaps = 1 - F.cosine_similarity(mapped, teacher, dim=1)
    else:
        gaps = (mapped - teacher).square().sum(1)
    return gaps.sum() / max(1, len(gaps))


def assignment_gap(student: Tensor, teacher: Tensor, valid0: Tensor, valid1: Tensor) -> Tensor:
    """Cross-entropy of each keypoint's soft assignment, less what is the teacher's own.

    The mean over the keypoints of both views, each of which is assigned to the other view's
    keypoints and the dustbin. The teacher's entropy is taken away, so that 0 stands for alike; the
    gradient is that of the cross-entropy.

    Args:
        student, teacher: (B, N0+1, N1+1) log assignments of the same keypoints, −1e9 for padding.
        valid0: (B, N0) bool, not padding. valid1: (B, N1).

    Returns:
        a scalar in nats; 0 where no keypoint is real.
    """
    gaps = teacher.exp() * (teacher - student)
    rows = gaps[:, :-1].sum(2).masked_fill(~valid0, 0).sum()
    columns = gaps[:, :, :-1].sum(1).masked_fill(~valid1, 0).sum()
    total: Tensor = (rows + columns) / (valid0.sum() + valid1.sum()).clamp_min(1)
    return total


def procrustes(products: Tensor) -> Tensor:
    """The orthogonal map R that brings S·R closest to T (Schönemann 1966), in closed form.

    Args:
        products: (D, E) Sᵀ·T of descriptors S (M, D) and T (M, E), up to scale.

    Returns:
        (D, E) float32, with orthonormal rows or columns, whichever are fewer.
    """
    left, _, right = torch.linalg.svd(products.double(), full_matrices=False)
    nearest: Tensor = left @ right
    return nearest.float()


class DescriptorMap(nn.Module):
    """Takes a student's descriptors to the teacher's space, where their widths differ.

    Args:
        width, target: D and E; where they are equal nothing is done.
        kind: "learned", a matrix trained along with the student; "procrustes", fitted in closed
            form to the descriptors seen so far, the recent ones most.
    """

    products: Tensor

    def __init__(self, width: int, target: int, kind: MapKind = "learned") -> None:
        super().__init__()
        self.kind = "identity" if width == target else kind
        if self.kind == "learned":
            weight = nn.init.orthogonal_(torch.empty(width, target))
            self.weight = nn.Parameter(weight)
        elif self.kind == "procrustes":
            self.register_buffer("products", torch.zeros(width, target, dtype=torch.float64))

    @torch.no_grad()
    def observe(self, student: Tensor, teacher: Tensor, world: World) -> None:
        """Fit a Procrustes map to further descriptors, (M, D) and (M, E); others need none."""
        if self.kind == "procrustes":
            products = (student.detach().float().T @ teacher.float()).double()
            self.products.mul_(_MEMORY).add_(world.sum(products))

    def forward(self, descriptors: Tensor) -> Tensor:
        """(M, D) -> (M, E)."""
        if self.kind == "identity":
            return descriptors
        matrix = self.weight if self.kind == "learned" else procrustes(self.products)
        return descriptors @ matrix

"""Divergences of the outputs of a student from those of its teacher.

Shape legend: B images or pairs, Hc×Wc cells, M descriptors of E dimensions, N0/N1 keypoints
(padded) of the two views.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Distance = Literal["cosine", "l2"]


def score_map_divergence(
    student: Tensor, teacher: Tensor, inside: Tensor, temperature: float
) -> Tensor:
    """Mean divergence KL(teacher ‖ student) of the distributions over the 65 classes of a cell.

    Softened and scaled by the temperature as in Hinton, Vinyals, Dean: Distilling the Knowledge in
    a Neural Network (2015).

    Args:
        student, teacher: (B, 65, Hc, Wc) logits.
        inside: (B, Hc, Wc) bool; other cells do not count.
        temperature: softens both distributions; positive.

    Returns:
        Scalar in nats, at least 0; 0 for equal distributions.
    """
    ours = (student.float() / temperature).log_softmax(1)
    theirs = (teacher.float() / temperature).log_softmax(1)
    divergences = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    mean: Tensor = (divergences * inside).sum() / inside.sum().clamp_min(1)
    return temperature**2 * mean


def descriptor_distance(mapped: Tensor, teacher: Tensor, distance: Distance) -> Tensor:
    """Mean distance of the student's descriptors from the teacher's.

    Args:
        mapped: (M, E), unit descriptors of the student, mapped to the teacher's space.
        teacher: (M, E), L2-normalized.
        distance: "cosine" is 1 − cosine in [0, 2]; "l2" is the squared Euclidean distance.

    Returns:
        Scalar; 0 without descriptors.
    """
    if distance == "cosine":
        distances = 1 - F.cosine_similarity(mapped, teacher, dim=1)
    else:
        distances = (mapped - teacher).square().sum(1)
    return distances.sum() / max(1, len(distances))


def assignment_divergence(
    student: Tensor, teacher: Tensor, valid0: Tensor, valid1: Tensor
) -> Tensor:
    """Mean divergence KL(teacher ‖ student) of the soft assignments of the keypoints.

    Each keypoint of either view is assigned to the keypoints of the other view and the dustbin.
    The gradient is that of the cross-entropy.

    Args:
        student, teacher: (B, N0+1, N1+1) log assignments of the same keypoints, −1e9 for padding.
        valid0: (B, N0) bool, False for padding.
        valid1: (B, N1) bool.

    Returns:
        Scalar in nats; 0 without valid keypoints.
    """
    terms = teacher.exp() * (teacher - student)
    rows = terms[:, :-1].sum(2).masked_fill(~valid0, 0).sum()
    columns = terms[:, :, :-1].sum(1).masked_fill(~valid1, 0).sum()
    total: Tensor = (rows + columns) / (valid0.sum() + valid1.sum()).clamp_min(1)
    return total

"""The linear map of a student's descriptors to the descriptor space of its teacher.

Shape legend: M descriptors, D and E dimensions of the student's and of the teacher's descriptors.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from featherglue.train.engine.distributed import ProcessGroup

_DECAY = 0.98  # weight of the products of earlier batches
MapKind = Literal["learned", "procrustes"]


def procrustes(products: Tensor) -> Tensor:
    """The orthogonal map R that minimizes ‖S·R − T‖ (Schönemann 1966), in closed form.

    Args:
        products: (D, E) Sᵀ·T of descriptors S (M, D) and T (M, E), up to scale.

    Returns:
        (D, E) float32 with orthonormal rows or columns, whichever are fewer.
    """
    left, _, right = torch.linalg.svd(products.double(), full_matrices=False)
    nearest: Tensor = left @ right
    return nearest.float()


class DescriptorMap(nn.Module):
    """Maps a student's descriptors (M, D) to the teacher's space (M, E).

    Args:
        width: D.
        target: E. The map is the identity if it equals `width`.
        kind: "learned" is a matrix trained with the student. "procrustes" is an orthogonal map
            fitted in closed form to a moving average over the descriptors seen so far.
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
    def update(self, student: Tensor, teacher: Tensor, group: ProcessGroup) -> None:
        """Update a Procrustes map by further descriptors; other maps do not change.

        Args:
            student: (M, D), L2-normalized.
            teacher: (M, E), L2-normalized.
            group: the processes of the run; their descriptors are used together.
        """
        if self.kind == "procrustes":
            products = (student.detach().float().T @ teacher.float()).double()
            self.products.mul_(_DECAY).add_(group.sum(products))

    def forward(self, descriptors: Tensor) -> Tensor:
        """Map descriptors, (M, D) -> (M, E)."""
        if self.kind == "identity":
            return descriptors
        matrix = self.weight if self.kind == "learned" else procrustes(self.products)
        return descriptors @ matrix

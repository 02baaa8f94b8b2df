"""The multi-layer perceptron of SuperGlue, with batch normalization that ignores padding.

Shape legend: B pairs, N keypoints, C channels. A mask is (B, N) bool, False for padding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalization over (B, N, C) whose statistics leave out padded keypoints."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, C) -> (B, N, C), 0 for padding if there is a mask in training mode."""
        if mask is None or not self.training:
            return super().forward(x.flatten(0, 1)).view_as(x)
        real = super().forward(x[mask])
        return torch.zeros_like(x, dtype=real.dtype).masked_scatter(mask[..., None], real)


class MLP(nn.Sequential):
    """Linear layers with optional batch normalization and ReLU between them.

    The last layer has no activation, and its bias starts at 0.

    Args:
        widths: number of channels of the input and of each layer's output.
        batch_norm: whether batch normalization precedes each ReLU.
    """

    def __init__(self, widths: Sequence[int], batch_norm: bool) -> None:
        layers: list[nn.Module] = []
        for i in range(1, len(widths)):
            layers.append(nn.Linear(widths[i - 1], widths[i]))
            if i < len(widths) - 1:
                if batch_norm:
                    layers.append(MaskedBatchNorm(widths[i]))
                layers.append(nn.ReLU())
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]
        super().__init__(*layers)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """x (B, N, C_in) -> (B, N, C_out)."""
        for layer in self:
            x = layer(x, mask) if isinstance(layer, MaskedBatchNorm) else layer(x)
        return x

"""Attention layers of SuperGlue's graph neural network.

Shape legend: B pairs, N and M keypoints, C feature width, h heads, d head width. A mask is
(B, M) bool, False for padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from featherglue.config import AttentionConfig
from featherglue.models.mlp import MLP


class DotProductAttention(nn.Module):
    """softmax(Q Kᵀ / √d) V. It has no weights; it is a module so that it can be replaced."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """query (B, h, N, d), key and value (B, h, M, d), mask (B, 1, 1, M) -> (B, h, N, d)."""
        if query.is_cuda:
            query, key, value = (with_dense_strides(t) for t in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, mask)


def with_dense_strides(heads: Tensor) -> Tensor:
    """The tensor (B, h, N, d) in contiguous memory, with the strides of a contiguous tensor.

    The stride of an axis of size 1 is arbitrary in PyTorch, even in a contiguous tensor. The fused
    CUDA kernels reject strides that are not aligned; `view` resets them.
    """
    return heads.contiguous().view(heads.shape)


class Attention(nn.Module):
    """Multi-head attention.

    Heads are interleaved, as in the published weights: channel c belongs to head c mod h.

    Args:
        width: feature width C.
        heads: number of heads h.
        head_dim: width d of a head.
    """

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.proj = nn.ModuleList(nn.Linear(width, heads * head_dim) for _ in range(3))
        self.merge = nn.Linear(heads * head_dim, width)
        self.product: nn.Module = DotProductAttention()

    def forward(self, x: Tensor, source: Tensor, source_mask: Tensor | None) -> Tensor:
        """x (B, N, C) attends to source (B, M, C) -> messages (B, N, C)."""
        query, key, value = (
            layer(t).unflatten(-1, (self.head_dim, self.heads)).permute(0, 3, 1, 2)
            for layer, t in zip(self.proj, (x, source, source), strict=True)
        )  # each (B, h, N or M, d)
        mask = None if source_mask is None else source_mask[:, None, None]
        message = self.product(query, key, value, mask)
        merged: Tensor = self.merge(message.permute(0, 2, 3, 1).flatten(2))
        return merged


class AttentionLayer(nn.Module):
    """A layer of the graph neural network: attention, then an MLP on features and messages.

    Args:
        width: feature width C.
        config: kind and sizes of the layer.
        batch_norm: whether the MLP has batch normalization.
    """

    def __init__(self, width: int, config: AttentionConfig, batch_norm: bool) -> None:
        super().__init__()
        self.kind = config.kind
        self.attn = Attention(width, config.heads, config.head_dim)
        self.mlp = MLP((width * 2, config.hidden, width), batch_norm)

    def forward(
        self, x: Tensor, source: Tensor, mask: Tensor | None, source_mask: Tensor | None
    ) -> Tensor:
        """x (B, N, C) attends to source (B, M, C) -> residual (B, N, C), to be added to x."""
        message = self.attn(x, source, source_mask)
        residual: Tensor = self.mlp(torch.cat((x, message), -1), mask)
        return residual

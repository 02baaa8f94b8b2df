"""Low-rank approximation of attention: a SuperGlue with narrower heads.

The score of a head is bilinear in the features, with the matrix product of its query and key
projections; its message is the matrix product of its value and merge projections. Each product is
replaced by its best approximation of lower rank (Eckart, Young 1936).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from featherglue.errors import ConfigError
from featherglue.models.attention import Attention
from featherglue.models.superglue import SuperGlue


@torch.no_grad()
def narrow_heads(network: SuperGlue, head_dim: int) -> SuperGlue:
    """A copy of a matcher with heads of at most `head_dim` channels.

    Raises:
        ConfigError: `head_dim` is below 1.
    """
    if head_dim < 1:
        raise ConfigError(f"head_dim must be at least 1, not {head_dim}")
    layers = tuple(
        replace(layer, head_dim=min(head_dim, layer.head_dim)) for layer in network.config.layers
    )
    narrow = SuperGlue(replace(network.config, layers=layers))
    state = network.state_dict()
    for index, layer in enumerate(network.gnn.layers):
        attention = layer.get_submodule("attn")
        assert isinstance(attention, Attention)
        if attention.head_dim <= head_dim:
            continue
        prefix = f"gnn.layers.{index}.attn."
        for name, value in _narrow(attention, head_dim).items():
            state[prefix + name] = value
    narrow.load_state_dict(state)
    return narrow.train(network.training)


def _narrow(attention: Attention, width: int) -> dict[str, Tensor]:
    """The weights of an attention with heads of `width` channels, by name."""
    heads = attention.heads
    query, key, value = (_by_head(attention.proj[i], heads) for i in range(3))
    merge = attention.merge.weight.reshape(len(attention.merge.bias), -1, heads)  # (C, d, h)
    factors: dict[str, list[Tensor]] = {
        name: [] for name in ("query", "query_bias", "key", "value", "merge")
    }
    scale = (width / attention.head_dim) ** 0.25  # logits are divided by √width
    for head in range(heads):
        # (Q x + q)·(K y + k) = [x 1] [Q q]ᵀ K y + a term that softmax over y cancels.
        with_bias = torch.cat((query[0][:, head], query[1][:, head, None]), 1)
        left, right = _factorize(with_bias.T @ key[0][:, head], width)
        factors["query"].append(left[:-1].T * scale)
        factors["query_bias"].append(left[-1] * scale)
        factors["key"].append(right * scale)
        left, right = _factorize(merge[:, :, head] @ value[0][:, head], width)
        factors["merge"].append(left)
        factors["value"].append(right)
    # Attention weights sum to 1, so the bias of the values passes to the merged message.
    bias = attention.merge.bias + torch.einsum("cdh,dh->c", merge, value[1])
    stacked = {name: torch.stack(tensors, -1) for name, tensors in factors.items()}
    zeros = torch.zeros_like(stacked["query_bias"]).flatten()
    return {
        "proj.0.weight": stacked["query"].permute(0, 2, 1).flatten(0, 1),
        "proj.0.bias": stacked["query_bias"].flatten(),
        "proj.1.weight": stacked["key"].permute(0, 2, 1).flatten(0, 1),
        "proj.1.bias": zeros,
        "proj.2.weight": stacked["value"].permute(0, 2, 1).flatten(0, 1),
        "proj.2.bias": zeros.clone(),
        "merge.weight": stacked["merge"].flatten(1),
        "merge.bias": bias,
    }


def _by_head(layer: nn.Module, heads: int) -> tuple[Tensor, Tensor]:
    """Weight (d, h, C) and bias (d, h) of a projection with interleaved heads."""
    assert isinstance(layer, nn.Linear)
    return layer.weight.reshape(-1, heads, layer.in_features), layer.bias.reshape(-1, heads)


def _factorize(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors (A, r) and (r, B) of equal scale of the best rank-r approximation of (A, B)."""
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank] * root[:, None]

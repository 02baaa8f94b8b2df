"""SuperGlue with narrower heads that attends almost as before.

What a head compares is a product of two linear maps, and so is what it passes on. Each product is
replaced by its best approximation of a lower rank (Eckart, Young 1936).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from featherglue.errors import ConfigError
from featherglue.models.superglue import Attention, SuperGlue


@torch.no_grad()
def narrow_heads(network: SuperGlue, head_dim: int) -> SuperGlue:
    """A copy of a matcher whose heads are `head_dim` wide; those that are narrower stay.

    Raises:
        ConfigError: a width below 1.
    """
    if head_dim < 1:
        raise ConfigError(f"heads must be at least 1 wide, not {head_dim}")
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
    heads = attention.heads
    query, key, value = (_by_head(attention.proj[i], heads) for i in range(3))
    merge = attention.merge.weight.reshape(len(attention.merge.bias), -1, heads)  # (C, d, h)
    parts: dict[str, list[Tensor]] = {name: [] for name in "qckvm"}
    scale = (width / attention.head_dim) ** 0.25  # attention divides by √width
    for head in range(heads):
        # (Q x + q)·(K y + k) is [x 1]·[Q q]ᵀ K y, but for what all y have in common.
        with_bias = torch.cat((query[0][:, head], query[1][:, head, None]), 1)
        left, right = _factors(with_bias.T @ key[0][:, head], width)
        parts["q"].append(left[:-1].T * scale)
        parts["c"].append(left[-1] * scale)
        parts["k"].append(right * scale)
        left, right = _factors(merge[:, :, head] @ value[0][:, head], width)
        parts["m"].append(left)
        parts["v"].append(right)
    # Attention's weights sum to 1, so that the values' bias comes through unchanged.
    bias = attention.merge.bias + torch.einsum("cdh,dh->c", merge, value[1])
    joined = {name: torch.stack(tensors, -1) for name, tensors in parts.items()}
    zeros = torch.zeros_like(joined["c"]).flatten()
    return {
        "proj.0.weight": joined["q"].permute(0, 2, 1).flatten(0, 1),
        "proj.0.bias": joined["c"].flatten(),
        "proj.1.weight": joined["k"].permute(0, 2, 1).flatten(0, 1),
        "proj.1.bias": zeros,
        "proj.2.weight": joined["v"].permute(0, 2, 1).flatten(0, 1),
        "proj.2.bias": zeros.clone(),
        "merge.weight": joined["m"].flatten(1),
        "merge.bias": bias,
    }


def _by_head(layer: nn.Module, heads: int) -> tuple[Tensor, Tensor]:
    """Weights (d, h, C) and biases (d, h) of a projection with interleaved heads."""
    assert isinstance(layer, nn.Linear)
    return layer.weight.reshape(-1, heads, layer.in_features), layer.bias.reshape(-1, heads)


def _factors(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(A, r) and (r, B) whose product is the best approximation of (A, B), of equal scale."""
    left, values, right = torch.linalg.svd(product, full_matrices=False)
    root = values[:rank].sqrt()
    return left[:, :rank] * root, right[:rank] * root[:, None]

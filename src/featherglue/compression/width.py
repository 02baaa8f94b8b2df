"""A matcher whose features are narrower: what they hold least of is left out.

Nothing in SuperGlue acts on single features: they are added to, and read by linear layers. So any
rotation of them that all those layers undo leaves the network as it is (as in Ashkboos et al.,
SliceGPT, ICLR 2024), and the features can be rotated to their principal directions first, of which
the last are left out. What else has that width is a product of two linear maps, and is replaced by
its best approximation of the new rank.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherglue.compression.calibration import Inputs
from featherglue.models.superglue import SuperGlue

Double = NDArray[np.float64]
State = dict[str, Tensor]


def principal_directions(network: SuperGlue, inputs: Inputs | None) -> tuple[Double, Tensor]:
    """How much the features hold of each principal direction, and the directions.

    They are those of the features before and after every layer, each depth with the same weight,
    on the inputs' keypoints; without any, those of what the layers would write if all that they
    take was noise.

    Returns:
        (C,) shares of the energy, falling, of sum 1; (C, C) float64, directions in columns.
    """
    sides = inputs.sides if inputs is not None else None
    moment = _written(network) if sides is None else _observed(network, sides)
    values, vectors = torch.linalg.eigh(moment)
    values = values.flip(0).clamp_min(0)
    return (values / values.sum()).numpy(), vectors.flip(1)


@torch.no_grad()
def _observed(network: SuperGlue, sides: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]) -> Tensor:
    depth = len(network.config.layers)
    total = torch.zeros(network.config.width, network.config.width, dtype=torch.float64)
    for i in range(len(sides[0][0])):
        pair = [network.encode(*(part[i : i + 1] for part in side)) for side in sides]
        for step in range(depth + 1):
            flat = torch.cat(pair, 1)[0].double()
            total += flat.T @ flat / flat.square().sum()
            pair = list(network.attend(pair[0], pair[1], first=step, depth=step + 1))
    return total


@torch.no_grad()
def _written(network: SuperGlue) -> Tensor:
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    width, descriptor = network.config.width, network.config.descriptor_dim
    inputs = state.get("input_proj.weight", torch.eye(width, dtype=torch.float64))
    total: Tensor = inputs @ inputs.T / descriptor
    for name in _writers(network):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        total += weight @ weight.T / weight.shape[1] + torch.outer(bias, bias)
    return total


def _writers(network: SuperGlue) -> list[str]:
    """The layers that add to the features, but for the descriptors' projection."""
    last = [f"kenc.encoder.{len(network.kenc.encoder) - 1}"]
    for i, layer in enumerate(network.gnn.layers):
        last.append(f"gnn.layers.{i}.mlp.{len(list(layer.get_submodule('mlp').children())) - 1}")
    return last


@torch.no_grad()
def narrow_width(network: SuperGlue, width: int, directions: Tensor) -> SuperGlue:
    """A copy of a matcher whose features are `width` wide.

    Descriptors, if they were not projected before, are from then on.

    Args:
        width: at most the old one, and not the descriptors' (see `groups.resized`).
        directions: (C, C) from `principal_directions`.
    """
    old = network.config
    if width == old.width:
        return network
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    basis = directions[:, :width].to(state["final_proj.weight"])  # (C, width)
    state.setdefault("input_proj.weight", torch.eye(old.width, dtype=torch.float64))
    state.setdefault("input_proj.bias", torch.zeros(old.width, dtype=torch.float64))
    for name in ("input_proj", *_writers(network)):
        state[f"{name}.weight"] = basis.T @ state[f"{name}.weight"]
        state[f"{name}.bias"] = basis.T @ state[f"{name}.bias"]
    for i in range(len(old.layers)):
        _narrow_layer(state, f"gnn.layers.{i}", basis)
    _narrow_comparison(state, basis)
    narrow = SuperGlue(replace(old, width=width))
    narrow.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return narrow.train(network.training)


def _narrow_layer(state: State, name: str, basis: Tensor) -> None:
    wide, width = basis.shape
    for j in range(3):
        state[f"{name}.attn.proj.{j}.weight"] = state[f"{name}.attn.proj.{j}.weight"] @ basis
    both = state[f"{name}.mlp.0.weight"]
    features, message = both[:, :wide], both[:, wide:]
    merge = state[f"{name}.attn.merge.weight"]
    # Nothing stands between these two layers, so that their product is all that matters.
    left, values, right = torch.linalg.svd(message @ merge, full_matrices=False)
    rank = min(width, len(values))
    root = values[:rank].sqrt()
    reader = torch.zeros(len(message), width, dtype=basis.dtype)
    reader[:, :rank] = left[:, :rank] * root
    # Rows that nothing reads yet hold what training can start from.
    generator = torch.Generator().manual_seed(0)
    writer = torch.randn(width, merge.shape[1], dtype=basis.dtype, generator=generator)
    writer *= float(merge.square().mean().sqrt())
    writer[:rank] = root[:, None] * right[:rank]
    state[f"{name}.mlp.0.bias"] = (
        state[f"{name}.mlp.0.bias"] + message @ state[f"{name}.attn.merge.bias"]
    )
    state[f"{name}.mlp.0.weight"] = torch.cat((features @ basis, reader), 1)
    state[f"{name}.attn.merge.weight"] = writer
    state[f"{name}.attn.merge.bias"] = torch.zeros(width, dtype=basis.dtype)


def _narrow_comparison(state: State, basis: Tensor) -> None:
    """The final projection: what it does outside of the span of its outputs is the same for all."""
    wide, width = basis.shape
    weight, bias = state["final_proj.weight"] @ basis, state["final_proj.bias"]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    inside = left.T @ bias
    constant = bias.square().sum() - inside.square().sum()
    scale = (width / wide) ** 0.25  # scores are divided by √C
    state["final_proj.weight"] = values[:, None] * right * scale
    state["final_proj.bias"] = inside * scale
    # Taken from all scores alike; the dustbin follows, and the assignment stays.
    state["bin_score"] = state["bin_score"] - constant.clamp_min(0) / wide**0.5

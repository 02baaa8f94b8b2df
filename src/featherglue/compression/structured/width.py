"""A matcher whose features are narrower: what they hold least of is left out.

Nothing in SuperGlue acts on single features: they are added to, and read by linear layers. So any
change of their coordinates that all those layers undo leaves the network as it is (as the rotations
of Ashkboos et al., SliceGPT, ICLR 2024), and the features can be taken apart along the directions
that matter first, of which the last are left out. What else has that width is a product of two
linear maps, and is replaced by its best approximation of the new rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherglue.compression.calibration import Inputs
from featherglue.compression.pruning.importance import probe_assignment
from featherglue.models.superglue import SuperGlue

Double = NDArray[np.float64]
State = dict[str, Tensor]
# Share of a moment that lies in all directions alike, so that the least can be divided by.
_LEAST = 1e-12


@dataclass(frozen=True)
class Directions:
    """Directions of a matcher's features, those that matter most first.

    Attributes:
        shares: (C,) of what they matter, falling, of sum 1.
        parts: (C, C) float64, in rows what takes features apart into their parts along them.
        joined: (C, C) float64, in columns the directions, of length 1; `joined @ parts` is 1.
    """

    shares: Double
    parts: Tensor
    joined: Tensor


def principal_directions(network: SuperGlue, inputs: Inputs | None) -> Directions:
    """Directions in which the features hold much of what the assignment feels.

    Before and after every layer, each depth with the same weight, on the inputs' keypoints. What is
    strong and heeded by nobody goes as well as what is weak: with X the second moment of the
    features and G that of the assignment's gradient, the directions are those of balanced
    truncation (Moore 1981), by the singular values of X^½·G^½. Without inputs X is what the layers
    would write if all that they take was noise, and G the same in all directions.
    """
    sides = inputs.sides if inputs is not None else None
    width = network.config.width
    if sides is None:
        held, felt = _written(network), torch.eye(width, dtype=torch.float64)
    else:
        held, felt = _observed(network, sides)
    held, felt = _root(held), _root(felt)
    left, values, right = torch.linalg.svd(held @ felt)
    joined, parts = held @ left, right @ felt
    lengths = joined.norm(dim=0)
    joined, parts = joined / lengths, parts * (lengths / values)[:, None]
    shares = values.square()
    return Directions((shares / shares.sum()).numpy(), parts, joined)


def _root(moment: Tensor) -> Tensor:
    """The square root of a second moment, a little of which is the same in all directions."""
    moment = moment / moment.trace()
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors * (values.clamp_min(0) + _LEAST).sqrt() @ vectors.T
    return root


def _observed(
    network: SuperGlue, sides: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor]:
    """The second moments of the features and of the gradient, each a mean over depths."""
    depths, width = len(network.config.layers) + 1, network.config.width
    moments = torch.zeros(2, depths, width, width, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for i in range(len(sides[0][0])):
        first, second = (network.encode(*(part[i : i + 1] for part in side)) for side in sides)
        features = [(first, second)]
        for step in range(depths - 1):
            first, second = network.attend(first, second, first=step, depth=step + 1)
            features.append((first, second))
        loss = probe_assignment(network, network.similarity(first, second), generator)
        gradients = torch.autograd.grad(loss, [side for pair in features for side in pair])
        for step, pair in enumerate(features):
            moments[0, step] += _moment(pair)
            moments[1, step] += _moment(gradients[2 * step : 2 * step + 2])
    traces = moments.diagonal(dim1=2, dim2=3).sum(2).clamp_min(1e-300)
    held, felt = (moments / traces[:, :, None, None]).sum(1)
    return held, felt


@torch.no_grad()
def _moment(sides: Sequence[Tensor]) -> Tensor:
    flat = torch.cat(tuple(sides), 1)[0].double()
    return flat.T @ flat


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
def narrow_width(network: SuperGlue, width: int, directions: Directions) -> SuperGlue:
    """A copy of a matcher whose features are `width` wide.

    Descriptors, if they were not projected before, are from then on.

    Args:
        width: at most the old one, and not the descriptors' (see `groups.resized`).
        directions: from `principal_directions`.
    """
    old = network.config
    if width == old.width:
        return network
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    parts, joined = directions.parts[:width], directions.joined[:, :width]
    state.setdefault("input_proj.weight", torch.eye(old.width, dtype=torch.float64))
    state.setdefault("input_proj.bias", torch.zeros(old.width, dtype=torch.float64))
    for name in ("input_proj", *_writers(network)):
        state[f"{name}.weight"] = parts @ state[f"{name}.weight"]
        state[f"{name}.bias"] = parts @ state[f"{name}.bias"]
    for i in range(len(old.layers)):
        _narrow_layer(state, f"gnn.layers.{i}", joined)
    _narrow_comparison(state, joined)
    narrow = SuperGlue(replace(old, width=width))
    narrow.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return narrow.train(network.training)


def _narrow_layer(state: State, name: str, joined: Tensor) -> None:
    wide, width = joined.shape
    for j in range(3):
        state[f"{name}.attn.proj.{j}.weight"] = state[f"{name}.attn.proj.{j}.weight"] @ joined
    both = state[f"{name}.mlp.0.weight"]
    features, message = both[:, :wide], both[:, wide:]
    merge = state[f"{name}.attn.merge.weight"]
    # Nothing stands between these two layers, so that their product is all that matters.
    left, values, right = torch.linalg.svd(message @ merge, full_matrices=False)
    rank = min(width, len(values))
    root = values[:rank].sqrt()
    reader = torch.zeros(len(message), width, dtype=joined.dtype)
    reader[:, :rank] = left[:, :rank] * root
    # Rows that nothing reads yet hold what training can start from.
    generator = torch.Generator().manual_seed(0)
    writer = torch.randn(width, merge.shape[1], dtype=joined.dtype, generator=generator)
    writer *= float(merge.square().mean().sqrt())
    writer[:rank] = root[:, None] * right[:rank]
    state[f"{name}.mlp.0.bias"] = (
        state[f"{name}.mlp.0.bias"] + message @ state[f"{name}.attn.merge.bias"]
    )
    state[f"{name}.mlp.0.weight"] = torch.cat((features @ joined, reader), 1)
    state[f"{name}.attn.merge.weight"] = writer
    state[f"{name}.attn.merge.bias"] = torch.zeros(width, dtype=joined.dtype)


def _narrow_comparison(state: State, joined: Tensor) -> None:
    """The final projection: what it does outside of the span of its outputs is the same for all."""
    wide, width = joined.shape
    weight, bias = state["final_proj.weight"] @ joined, state["final_proj.bias"]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    inside = left.T @ bias
    constant = bias.square().sum() - inside.square().sum()
    scale = (width / wide) ** 0.25  # scores are divided by √C
    state["final_proj.weight"] = values[:, None] * right * scale
    state["final_proj.bias"] = inside * scale
    # Taken from all scores alike; the dustbin follows, and the assignment stays.
    state["bin_score"] = state["bin_score"] - constant.clamp_min(0) / wide**0.5

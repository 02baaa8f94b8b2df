"""Reduction of the feature width of a matcher.

All layers of SuperGlue read features by linear maps and add to them. A change of basis that all
these maps undo does not change the network, as in SliceGPT (Ashkboos et al., ICLR 2024). The
features are expressed in a basis of principal directions, and the last directions are dropped.
The product of two linear maps of that width is replaced by its best low-rank approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.importance import probe_assignment
from featherglue.models.superglue import SuperGlue

Double = NDArray[np.float64]
State = dict[str, Tensor]
# Added to the eigenvalues of a normalized moment, so that it can be inverted.
_EPSILON = 1e-12


@dataclass(frozen=True)
class Directions:
    """A basis of the features of a matcher, the most important directions first.

    Attributes:
        fractions: fraction of each direction in the total energy, (C,), in descending order.
        analysis: (C, C) float64; maps features to coordinates in the basis.
        synthesis: (C, C) float64; its columns are the unit directions. It is the inverse of
            `analysis`.
    """

    fractions: Double
    analysis: Tensor
    synthesis: Tensor


def principal_directions(network: SuperGlue, calibration: CalibrationData | None) -> Directions:
    """Return the directions of the features that affect the assignment most.

    Features are measured before and after every layer, with equal weight. With X the second moment
    of the features and G that of the gradient of a loss of the assignment, the basis is that of
    balanced truncation (Moore, IEEE TAC 1981), from the singular values of X^½·G^½. So directions
    of low energy are last, and also directions that the assignment does not depend on.

    Args:
        network: the matcher.
        calibration: data to measure on. Without it, X is the second moment of the outputs of all
            layers for white noise, and G is the identity.
    """
    views = calibration.features if calibration is not None else None
    width = network.config.width
    if views is None:
        feature, gradient = _noise_moment(network), torch.eye(width, dtype=torch.float64)
    else:
        feature, gradient = _measured_moments(network, views)
    feature, gradient = _square_root(feature), _square_root(gradient)
    left, values, right = torch.linalg.svd(feature @ gradient)
    synthesis, analysis = feature @ left, right @ gradient
    lengths = synthesis.norm(dim=0)
    synthesis, analysis = synthesis / lengths, analysis * (lengths / values)[:, None]
    fractions = values.square()
    return Directions((fractions / fractions.sum()).numpy(), analysis, synthesis)


def _square_root(moment: Tensor) -> Tensor:
    """Return the square root of a normalized second moment."""
    moment = moment / moment.trace()
    values, vectors = torch.linalg.eigh(moment)
    root: Tensor = vectors * (values.clamp_min(0) + _EPSILON).sqrt() @ vectors.T
    return root


def _measured_moments(
    network: SuperGlue, views: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]
) -> tuple[Tensor, Tensor]:
    """Return the second moments of the features and of the gradient, averaged over depths."""
    depths, width = len(network.config.layers) + 1, network.config.width
    moments = torch.zeros(2, depths, width, width, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for i in range(len(views[0][0])):
        first, second = (network.encode(*(part[i : i + 1] for part in view)) for view in views)
        features = [(first, second)]
        for step in range(depths - 1):
            first, second = network.attend(first, second, start=step, stop=step + 1)
            features.append((first, second))
        loss = probe_assignment(network, network.similarity(first, second), generator)
        gradients = torch.autograd.grad(loss, [view for pair in features for view in pair])
        for step, pair in enumerate(features):
            moments[0, step] += _moment(pair)
            moments[1, step] += _moment(gradients[2 * step : 2 * step + 2])
    traces = moments.diagonal(dim1=2, dim2=3).sum(2).clamp_min(1e-300)
    feature, gradient = (moments / traces[:, :, None, None]).sum(1)
    return feature, gradient


@torch.no_grad()
def _moment(views: Sequence[Tensor]) -> Tensor:
    flat = torch.cat(tuple(views), 1)[0].double()
    return flat.T @ flat


@torch.no_grad()
def _noise_moment(network: SuperGlue) -> Tensor:
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    width, descriptor = network.config.width, network.config.descriptor_dim
    inputs = state.get("input_proj.weight", torch.eye(width, dtype=torch.float64))
    total: Tensor = inputs @ inputs.T / descriptor
    for name in _output_layers(network):
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        total += weight @ weight.T / weight.shape[1] + torch.outer(bias, bias)
    return total


def _output_layers(network: SuperGlue) -> list[str]:
    """Return the layers that add to the features, without the projection of the descriptors."""
    last = [f"kenc.encoder.{len(network.kenc.encoder) - 1}"]
    for i, layer in enumerate(network.gnn.layers):
        last.append(f"gnn.layers.{i}.mlp.{len(list(layer.get_submodule('mlp').children())) - 1}")
    return last


@torch.no_grad()
def narrow_width(network: SuperGlue, width: int, directions: Directions) -> SuperGlue:
    """Return a copy of a matcher with a smaller feature width.

    A matcher without a projection of its descriptors gains one.

    Args:
        network: the matcher.
        width: new width, at most the old one and different from that of the descriptors (see
            `groups.resized`).
        directions: result of `principal_directions`.
    """
    old = network.config
    if width == old.width:
        return network
    state = {name: tensor.double() for name, tensor in network.state_dict().items()}
    analysis, synthesis = directions.analysis[:width], directions.synthesis[:, :width]
    state.setdefault("input_proj.weight", torch.eye(old.width, dtype=torch.float64))
    state.setdefault("input_proj.bias", torch.zeros(old.width, dtype=torch.float64))
    for name in ("input_proj", *_output_layers(network)):
        state[f"{name}.weight"] = analysis @ state[f"{name}.weight"]
        state[f"{name}.bias"] = analysis @ state[f"{name}.bias"]
    for i in range(len(old.layers)):
        _narrow_layer(state, f"gnn.layers.{i}", synthesis)
    _narrow_final_projection(state, synthesis)
    narrow = SuperGlue(replace(old, width=width))
    narrow.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return narrow.train(network.training)


def _narrow_layer(state: State, name: str, synthesis: Tensor) -> None:
    wide, width = synthesis.shape
    for j in range(3):
        state[f"{name}.attn.proj.{j}.weight"] = state[f"{name}.attn.proj.{j}.weight"] @ synthesis
    both = state[f"{name}.mlp.0.weight"]
    features, message = both[:, :wide], both[:, wide:]
    merge = state[f"{name}.attn.merge.weight"]
    # The two layers follow each other directly, so that only their product matters.
    left, values, right = torch.linalg.svd(message @ merge, full_matrices=False)
    rank = min(width, len(values))
    root = values[:rank].sqrt()
    reader = torch.zeros(len(message), width, dtype=synthesis.dtype)
    reader[:, :rank] = left[:, :rank] * root
    # The other rows are not read yet. Random values let training use them.
    generator = torch.Generator().manual_seed(0)
    writer = torch.randn(width, merge.shape[1], dtype=synthesis.dtype, generator=generator)
    writer *= float(merge.square().mean().sqrt())
    writer[:rank] = root[:, None] * right[:rank]
    state[f"{name}.mlp.0.bias"] = (
        state[f"{name}.mlp.0.bias"] + message @ state[f"{name}.attn.merge.bias"]
    )
    state[f"{name}.mlp.0.weight"] = torch.cat((features @ synthesis, reader), 1)
    state[f"{name}.attn.merge.weight"] = writer
    state[f"{name}.attn.merge.bias"] = torch.zeros(width, dtype=synthesis.dtype)


def _narrow_final_projection(state: State, synthesis: Tensor) -> None:
    """Narrow the final projection, in place.

    The bias outside of the span of the weight adds a constant to all scores. The dustbin score
    changes by the same constant, so that the assignment is unchanged.
    """
    wide, width = synthesis.shape
    weight, bias = state["final_proj.weight"] @ synthesis, state["final_proj.bias"]
    left, values, right = torch.linalg.svd(weight, full_matrices=False)
    inside = left.T @ bias
    constant = bias.square().sum() - inside.square().sum()
    scale = (width / wide) ** 0.25  # scores are divided by the root of the width
    state["final_proj.weight"] = values[:, None] * right * scale
    state["final_proj.bias"] = inside * scale
    state["bin_score"] = state["bin_score"] - constant.clamp_min(0) / wide**0.5

"""Which channels, heads and directions matter: the energy of every unit of a group.

- "l2": the squared norm of what makes a channel, with its normalisation folded in (as the L1 norm
  of Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017); of a head, of what it can pass
  on.
- "taylor": the mean square of the derivative of a loss by a factor in front of the unit (Molchanov
  et al., Importance Estimation for Neural Network Pruning, CVPR 2019).

The widths of heads and features are ranked by the energy of their directions either way.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import layers
from featherglue.compression.calibration import Inputs
from featherglue.compression.pruning.importance import Losses, gate_products, probe_losses
from featherglue.compression.structured.groups import HEAD_DIM, WIDTH, group_sizes
from featherglue.compression.structured.width import principal_directions
from featherglue.errors import UsageError
from featherglue.models.model import Model

Double = NDArray[np.float64]
ChannelImportance = Literal["l2", "taylor"]


def unit_energies(
    model: Model,
    names: Collection[str],
    importance: ChannelImportance,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> dict[str, Double]:
    """For each of these groups the energy of its units: (size,), at least 0, of sum 1.

    Args:
        names: see `groups`. inputs: for "taylor" without losses, and to see the features that
            `matcher.width` narrows. losses: for "taylor", see `importance.Losses`.

    Raises:
        UsageError: "taylor" without inputs and losses.
    """
    gates: dict[str, Double] = {}
    plain = [name for name in names if name != WIDTH and not name.endswith(HEAD_DIM)]
    if importance == "taylor" and plain:
        gates = _gate_energies(model, plain, inputs, losses)
    artifact = fold_batch_norm(model.to_artifact())
    found: dict[str, Double] = {}
    for name, layer in _first_layers(model, artifact, names).items():
        if name == WIDTH:
            assert model.matcher is not None
            energies = principal_directions(model.matcher, inputs).shares
        elif name.endswith(HEAD_DIM):
            energies = _head_dim_energies(artifact, name.removesuffix(".head_dim"))
        elif name in gates:
            energies = gates[name]
        elif name.endswith(".attn"):
            energies = _head_energies(artifact, name)
        else:
            weight, bias = artifact.arrays[f"{layer}.weight"], artifact.arrays[f"{layer}.bias"]
            rows = weight.reshape(len(weight), -1).astype(np.float64)
            energies = np.square(rows).sum(1) + np.square(bias.astype(np.float64))
        total = energies.sum()
        found[name] = energies / total if total > 0 else np.full(len(energies), 1 / len(energies))
    return found


def _first_layers(model: Model, folded: Artifact, names: Collection[str]) -> dict[str, str]:
    """What each group's layer is called without batch normalisation."""
    both = zip(layers(model.architecture), layers(folded.architecture), strict=True)
    new = {old.name: after.name for old, after in both}
    return {name: new.get(name, "") for name in names}


def _by_head(array: NDArray[np.float32], heads: int) -> Double:
    """(d·h, …) channels, which are interleaved, as (h, d, …)."""
    split = array.reshape(-1, heads, *array.shape[1:]).astype(np.float64)
    return np.moveaxis(split, 1, 0)


def _heads_of(artifact: Artifact, attention: str) -> int:
    return group_sizes(artifact.architecture)[attention]


def _head_energies(artifact: Artifact, attention: str) -> Double:
    """The squared norm of value and merge together, as far as a head is concerned."""
    heads = _heads_of(artifact, attention)
    value = _by_head(artifact.arrays[f"{attention}.proj.2.weight"], heads)
    bias = _by_head(artifact.arrays[f"{attention}.proj.2.bias"], heads)
    merge = _by_head(artifact.arrays[f"{attention}.merge.weight"].T, heads)
    both = np.concatenate((value, bias[..., None]), -1)
    return np.array([_energies(m, v).sum() for m, v in zip(merge, both, strict=True)])


def _head_dim_energies(artifact: Artifact, attention: str) -> Double:
    """Of what heads compare and pass on, the shares of the 1st, 2nd, … of its directions."""
    heads = _heads_of(artifact, attention)
    query, key, value = (
        _by_head(artifact.arrays[f"{attention}.proj.{j}.weight"], heads) for j in range(3)
    )
    bias = _by_head(artifact.arrays[f"{attention}.proj.0.bias"], heads)
    merge = _by_head(artifact.arrays[f"{attention}.merge.weight"].T, heads)
    query = np.concatenate((query, bias[..., None]), -1)
    total = np.zeros(query.shape[1])
    for left, right in ((query, key), (merge, value)):
        for one, other in zip(left, right, strict=True):
            energies = _energies(one, other)
            total += energies / max(float(energies.sum()), 1e-300)
    return total


def _energies(left: Double, right: Double) -> Double:
    """The squared singular values of leftᵀ·right, falling; left (d, A), right (d, B): (d,)."""
    first, second = (np.linalg.qr(part.T).R for part in (left, right))
    values = np.square(np.linalg.svd(first @ second.T, compute_uv=False))
    full: Double = np.zeros(len(left))
    full[: len(values)] = values
    return full


def _gate_energies(
    model: Model, names: Collection[str], inputs: Inputs | None, losses: Losses | None
) -> dict[str, Double]:
    if losses is None:
        if inputs is None:
            raise UsageError('importance by "taylor" needs images for calibration; "l2" needs none')
        losses = probe_losses(inputs)
    norms = {layer.name: layer.norm for layer in layers(model.architecture)}
    sizes = group_sizes(model.architecture)
    totals = {name: np.zeros(sizes[name]) for name in names}
    for products in gate_products(model, losses):
        for name in names:
            if name.endswith(".attn"):
                merge = products[f"{name}.merge.weight"]
                gate = merge.reshape(len(merge), -1, sizes[name]).sum((0, 1))
            else:
                owner = norms[name] or name
                gate = products[f"{owner}.weight"].reshape(sizes[name], -1).sum(1)
                gate = gate + products[f"{owner}.bias"]
            totals[name] += np.square(gate)
    return totals


@torch.no_grad()
def layer_energies(model: Model, inputs: Inputs | None = None) -> Double:
    """How much each layer of a matcher adds to its features, relative to them: (layers,).

    Args:
        inputs: their keypoints are sent through; without any the layers' last weights are compared.
    """
    network = model.matcher
    assert network is not None
    depth = len(network.config.layers)
    sides = inputs.sides if inputs is not None else None
    if sides is None:
        last = [list(layer.get_submodule("mlp").children())[-1] for layer in network.gnn.layers]
        return np.array([float(layer.get_parameter("weight").square().sum()) for layer in last])
    energies = np.zeros(depth)
    for i in range(len(sides[0][0])):
        pair = [network.encode(*(part[i : i + 1] for part in side)) for side in sides]
        for step in range(depth):
            after = network.attend(pair[0], pair[1], first=step, depth=step + 1)
            added = sum(float((b - a).square().sum()) for a, b in zip(pair, after, strict=True))
            energies[step] += added / sum(float(a.square().sum()) for a in pair)
            pair = list(after)
    return energies

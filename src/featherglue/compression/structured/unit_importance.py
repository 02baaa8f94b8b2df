"""Importance of channels, heads and directions: the energy of every unit of a group.

- "l2": the squared norm of the weights and bias that produce a channel, with batch normalization
  folded (like the L1 norm of Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017). For a
  head it is the squared norm of the product of its value and merge matrices.
- "taylor": the mean square of the derivative of a loss with respect to a gate that multiplies the
  unit (Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019).

The units of head width and feature width are directions, which are always ranked by their energy.
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
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.importance import Losses, gate_products, probe_losses
from featherglue.compression.structured.feature_width import principal_directions
from featherglue.compression.structured.groups import HEAD_DIM, WIDTH, group_sizes
from featherglue.errors import UsageError
from featherglue.models.model import Model

Double = NDArray[np.float64]
ChannelImportance = Literal["l2", "taylor"]


def unit_energies(
    model: Model,
    names: Collection[str],
    importance: ChannelImportance,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> dict[str, Double]:
    """Return the energy of every unit of some groups.

    Args:
        names: names of the groups; see `groups`.
        importance: kind of importance.
        calibration: required by "taylor" without `losses`. If given, it also determines the
            directions of `matcher.width`.
        losses: losses for "taylor"; see `importance.Losses`.

    Returns:
        Group name → (size,) float64, at least 0, of sum 1.

    Raises:
        UsageError: "taylor" has neither calibration data nor losses.
    """
    gates: dict[str, Double] = {}
    plain = [name for name in names if name != WIDTH and not name.endswith(HEAD_DIM)]
    if importance == "taylor" and plain:
        gates = _gate_energies(model, plain, calibration, losses)
    artifact = fold_batch_norm(model.to_artifact())
    found: dict[str, Double] = {}
    for name, layer in _first_layers(model, artifact, names).items():
        if name == WIDTH:
            assert model.matcher is not None
            energies = principal_directions(model.matcher, calibration).fractions
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
    """Return the name that the first layer of each group has after folding."""
    both = zip(layers(model.architecture), layers(folded.architecture), strict=True)
    new = {old.name: after.name for old, after in both}
    return {name: new.get(name, "") for name in names}


def _by_head(array: NDArray[np.float32], heads: int) -> Double:
    """Split interleaved channels (d·h, …) into heads (h, d, …)."""
    split = array.reshape(-1, heads, *array.shape[1:]).astype(np.float64)
    return np.moveaxis(split, 1, 0)


def _heads_of(artifact: Artifact, attention: str) -> int:
    return group_sizes(artifact.architecture)[attention]


def _head_energies(artifact: Artifact, attention: str) -> Double:
    """Return the squared norm of the product of value and merge matrices, for each head."""
    heads = _heads_of(artifact, attention)
    value = _by_head(artifact.arrays[f"{attention}.proj.2.weight"], heads)
    bias = _by_head(artifact.arrays[f"{attention}.proj.2.bias"], heads)
    merge = _by_head(artifact.arrays[f"{attention}.merge.weight"].T, heads)
    both = np.concatenate((value, bias[..., None]), -1)
    return np.array([_energies(m, v).sum() for m, v in zip(merge, both, strict=True)])


def _head_dim_energies(artifact: Artifact, attention: str) -> Double:
    """Return the energy of the 1st, 2nd, … direction of the products query·key and merge·value."""
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
    """Return the squared singular values of leftᵀ·right in descending order, (d,).

    Args:
        left: (d, A).
        right: (d, B).
    """
    first, second = (np.linalg.qr(part.T).R for part in (left, right))
    values = np.square(np.linalg.svd(first @ second.T, compute_uv=False))
    full: Double = np.zeros(len(left))
    full[: len(values)] = values
    return full


def _gate_energies(
    model: Model,
    names: Collection[str],
    calibration: CalibrationData | None,
    losses: Losses | None,
) -> dict[str, Double]:
    if losses is None:
        if calibration is None:
            raise UsageError('importance "taylor" requires calibration images; "l2" does not')
        losses = probe_losses(calibration)
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
def layer_energies(model: Model, calibration: CalibrationData | None = None) -> Double:
    """Return how much each layer of a matcher changes the features, relative to them: (layers,).

    Args:
        calibration: data to measure on. Without it, the norms of the last weights of the layers
            are compared.
    """
    network = model.matcher
    assert network is not None
    depth = len(network.config.layers)
    views = calibration.features if calibration is not None else None
    if views is None:
        last = [list(layer.get_submodule("mlp").children())[-1] for layer in network.gnn.layers]
        return np.array([float(layer.get_parameter("weight").square().sum()) for layer in last])
    energies = np.zeros(depth)
    for i in range(len(views[0][0])):
        pair = [network.encode(*(part[i : i + 1] for part in view)) for view in views]
        for step in range(depth):
            after = network.attend(pair[0], pair[1], start=step, stop=step + 1)
            added = sum(float((b - a).square().sum()) for a, b in zip(pair, after, strict=True))
            energies[step] += added / sum(float(a.square().sum()) for a in pair)
            pair = list(after)
    return energies

"""Removal of channels, heads, directions and layers from a model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import Arrays, Artifact
from featherglue.artifact.layers import NORM_PARTS, layers
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.fine_grained import require_unquantized
from featherglue.compression.structured.feature_width import narrow_width, principal_directions
from featherglue.compression.structured.groups import (
    DESCRIPTOR,
    HEAD_DIM,
    WIDTH,
    group_sizes,
    layer_flows,
    resized,
)
from featherglue.errors import ConfigError
from featherglue.models.low_rank import narrow_heads
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue

Double = NDArray[np.float64]
Index = NDArray[np.int64]


def shrink(
    model: Model,
    sizes: Mapping[str, int],
    energies: Mapping[str, Double],
    calibration: CalibrationData | None = None,
) -> Model:
    """Return a copy of a model whose groups have new sizes. Remaining units keep their order.

    The removal of a channel whose weights and bias are zero changes outputs by rounding only.

    Args:
        sizes: group name → new size; see `groups`. Other groups are unchanged.
        energies: group name → energy of each unit, for the same groups; see `unit_importance`.
        calibration: determines the directions that `matcher.width` keeps.

    Raises:
        ConfigError: a size is not possible.
        UsageError: the model is quantized.
    """
    require_unquantized(model)
    resized(model.architecture, sizes)  # raises before any work is done
    old = group_sizes(model.architecture)
    smaller = {name: size for name, size in sizes.items() if size < old[name]}
    directions = {n for n in smaller if n == WIDTH or n.endswith(HEAD_DIM)}
    kept = {name: strongest(energies[name], smaller[name]) for name in smaller.keys() - directions}
    sliced = Model.from_artifact(_slice(model.to_artifact(), kept))
    matcher = sliced.matcher
    if matcher is not None and directions:
        matcher = _narrow_heads(matcher, {n: smaller[n] for n in directions - {WIDTH}})
        if WIDTH in directions:
            found = principal_directions(matcher, _slice_descriptors(calibration, kept))
            matcher = narrow_width(matcher, smaller[WIDTH], found)
    return replace(sliced, matcher=matcher)


def strongest(energies: Double, count: int) -> Index:
    """Return the indices of the `count` largest energies, in ascending order."""
    return np.sort(np.argsort(-energies, kind="stable")[:count])


def remove_layers(model: Model, removed: Collection[int]) -> Model:
    """Return a copy of a model without some layers of its matcher.

    Args:
        removed: indices of the layers.

    Raises:
        ConfigError: there is no matcher, a layer does not exist, or no layer would remain.
        UsageError: the model is quantized.
    """
    require_unquantized(model)
    glue = model.architecture.matcher
    if glue is None:
        raise ConfigError("this model has no matcher from which layers can be removed")
    unknown = sorted(set(removed) - set(range(len(glue.layers))))
    if unknown:
        raise ConfigError(
            f"there is no layer {unknown[0]}: the matcher has {len(glue.layers)} layers"
        )
    left = [i for i in range(len(glue.layers)) if i not in removed]
    if not left and glue.layers:
        raise ConfigError(f"not all {len(glue.layers)} layers of the matcher can be removed")
    artifact = model.to_artifact()
    arrays = {n: a for n, a in artifact.arrays.items() if not n.startswith("matcher.gnn.layers.")}
    for new, i in enumerate(left):
        prefix = f"matcher.gnn.layers.{i}."
        arrays |= {
            f"matcher.gnn.layers.{new}.{name.removeprefix(prefix)}": array
            for name, array in artifact.arrays.items()
            if name.startswith(prefix)
        }
    matcher = replace(glue, layers=tuple(glue.layers[i] for i in left))
    architecture = replace(artifact.architecture, matcher=matcher)
    return Model.from_artifact(replace(artifact, architecture=architecture, arrays=arrays))


def _slice(artifact: Artifact, kept: Mapping[str, Index]) -> Artifact:
    """Keep some units of groups of channels and heads; other groups are unchanged."""
    architecture = artifact.architecture
    sizes = group_sizes(architecture)
    flows = layer_flows(architecture)
    arrays = dict(artifact.arrays)

    def channels(group: str, count: int) -> Index:
        if group not in kept:
            return np.arange(count)
        if not group.endswith(".attn"):
            return kept[group]
        # Heads are interleaved: channel c belongs to head c mod h.
        grid = np.arange(count).reshape(-1, sizes[group])
        return grid[:, kept[group]].reshape(-1)

    for layer in layers(architecture):
        outputs, inputs = flows.get(layer.name, ("", ""))
        rows, columns = channels(outputs, layer.shape[0]), channels(inputs, layer.shape[1])
        weight = arrays[f"{layer.name}.weight"]
        arrays[f"{layer.name}.weight"] = np.ascontiguousarray(weight[rows][:, columns])
        arrays[f"{layer.name}.bias"] = arrays[f"{layer.name}.bias"][rows]
        if layer.norm:
            for part in NORM_PARTS:
                arrays[f"{layer.norm}.{part}"] = arrays[f"{layer.norm}.{part}"][rows]
    if DESCRIPTOR in kept:
        _project_descriptors(artifact, arrays, kept[DESCRIPTOR])
    new = resized(architecture, {name: len(index) for name, index in kept.items()})
    return replace(artifact, architecture=new, arrays=arrays, hash="", folder=None)


def _project_descriptors(artifact: Artifact, arrays: Arrays, kept: Index) -> None:
    """Add a projection to a matcher that has none, which maps the kept elements to their places."""
    glue = artifact.architecture.matcher
    if glue is not None and glue.descriptor_dim == glue.width:
        arrays["matcher.input_proj.weight"] = np.eye(glue.width, dtype=np.float32)[:, kept]
        arrays["matcher.input_proj.bias"] = np.zeros(glue.width, np.float32)


def _narrow_heads(matcher: SuperGlue, widths: Mapping[str, int]) -> SuperGlue:
    """Return a copy of a matcher with other head widths, by group name."""
    state = matcher.state_dict()
    configs = list(matcher.config.layers)
    for width in sorted(set(widths.values())):
        narrow = narrow_heads(matcher, width).state_dict()
        for group in (name for name, new_width in widths.items() if new_width == width):
            prefix = group.removeprefix("matcher.").removesuffix("head_dim")  # gnn.layers.I.attn.
            index = int(prefix.split(".")[2])
            configs[index] = replace(configs[index], head_dim=width)
            state |= {name: value for name, value in narrow.items() if name.startswith(prefix)}
    narrowed = SuperGlue(replace(matcher.config, layers=tuple(configs)))
    narrowed.load_state_dict(state)
    return narrowed.train(matcher.training)


def _slice_descriptors(
    calibration: CalibrationData | None, kept: Mapping[str, Index]
) -> CalibrationData | None:
    """Return calibration data that contains only the kept elements of descriptors."""
    if calibration is None or calibration.features is None or DESCRIPTOR not in kept:
        return calibration
    first, second = (
        (points, scores, descriptors[..., kept[DESCRIPTOR]])
        for points, scores, descriptors in calibration.features
    )
    return replace(calibration, features=(first, second))

"""A model with fewer channels, heads, directions or layers: the one place that takes them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import Arrays, Artifact
from featherglue.artifact.layers import NORM_PARTS, layers
from featherglue.compression.calibration import Inputs
from featherglue.compression.pruning.fine_grained import refuse_quantized
from featherglue.compression.structured.groups import (
    DESCRIPTOR,
    HEAD_DIM,
    WIDTH,
    group_sizes,
    layer_flows,
    resized,
)
from featherglue.compression.structured.width import narrow_width, principal_directions
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
    inputs: Inputs | None = None,
) -> Model:
    """A copy of a model whose groups have these sizes; what remains keeps its order.

    Channels that are 0 everywhere (weights and bias) make no difference to the outputs when they
    go, but for rounding.

    Args:
        sizes: by group, see `groups`; others stay.
        energies: of the units of these groups, see `rankings`.
        inputs: show which features `matcher.width` can do without.

    Raises:
        ConfigError: sizes that cannot be. UsageError: the model is quantized.
    """
    refuse_quantized(model)
    resized(model.architecture, sizes)  # all of it, before any work
    old = group_sizes(model.architecture)
    smaller = {name: size for name, size in sizes.items() if size < old[name]}
    directions = {n for n in smaller if n == WIDTH or n.endswith(HEAD_DIM)}
    kept = {name: strongest(energies[name], smaller[name]) for name in smaller.keys() - directions}
    made = Model.from_artifact(_slice(model.to_artifact(), kept))
    matcher = made.matcher
    if matcher is not None and directions:
        matcher = _narrow_heads(matcher, {n: smaller[n] for n in directions - {WIDTH}})
        if WIDTH in directions:
            found = principal_directions(matcher, _without_missing(inputs, kept))
            matcher = narrow_width(matcher, smaller[WIDTH], found)
    return replace(made, matcher=matcher)


def strongest(energies: Double, count: int) -> Index:
    """The indices of the `count` largest, rising."""
    return np.sort(np.argsort(-energies, kind="stable")[:count])


def drop_layers(model: Model, dropped: Collection[int]) -> Model:
    """A copy of a model without these layers of its matcher.

    Raises:
        ConfigError: no matcher, no such layer, or none would be left.
        UsageError: the model is quantized.
    """
    refuse_quantized(model)
    glue = model.architecture.matcher
    if glue is None:
        raise ConfigError("this model has no matcher whose layers could go")
    unknown = sorted(set(dropped) - set(range(len(glue.layers))))
    if unknown:
        raise ConfigError(f"there is no layer {unknown[0]}: the matcher has {len(glue.layers)}")
    left = [i for i in range(len(glue.layers)) if i not in dropped]
    if not left and glue.layers:
        raise ConfigError(f"all {len(glue.layers)} layers of the matcher would go")
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
    """Take these units of groups of channels and heads, and nothing of the others."""
    architecture = artifact.architecture
    sizes = group_sizes(architecture)
    flows = layer_flows(architecture)
    arrays = dict(artifact.arrays)

    def channels(group: str, count: int) -> Index:
        if group not in kept:
            return np.arange(count)
        if not group.endswith(".attn"):
            return kept[group]
        # The heads are interleaved: channel c belongs to head c mod h.
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
    """A matcher that took descriptors as they are gets a projection that puts them in place."""
    glue = artifact.architecture.matcher
    if glue is not None and glue.descriptor_dim == glue.width:
        arrays["matcher.input_proj.weight"] = np.eye(glue.width, dtype=np.float32)[:, kept]
        arrays["matcher.input_proj.bias"] = np.zeros(glue.width, np.float32)


def _narrow_heads(matcher: SuperGlue, widths: Mapping[str, int]) -> SuperGlue:
    """Heads of other widths, layer by layer."""
    state = matcher.state_dict()
    configs = list(matcher.config.layers)
    for width in sorted(set(widths.values())):
        narrow = narrow_heads(matcher, width).state_dict()
        for group in (name for name, wanted in widths.items() if wanted == width):
            prefix = group.removeprefix("matcher.").removesuffix("head_dim")  # gnn.layers.I.attn.
            index = int(prefix.split(".")[2])
            configs[index] = replace(configs[index], head_dim=width)
            state |= {name: value for name, value in narrow.items() if name.startswith(prefix)}
    made = SuperGlue(replace(matcher.config, layers=tuple(configs)))
    made.load_state_dict(state)
    return made.train(matcher.training)


def _without_missing(inputs: Inputs | None, kept: Mapping[str, Index]) -> Inputs | None:
    """Inputs whose descriptors hold only what the extractor still gives."""
    if inputs is None or inputs.sides is None or DESCRIPTOR not in kept:
        return inputs
    first, second = (
        (points, scores, descriptors[..., kept[DESCRIPTOR]])
        for points, scores, descriptors in inputs.sides
    )
    return replace(inputs, sides=(first, second))

"""Fine-grained pruning (Han et al., Learning both Weights and Connections for Efficient Neural
Networks, NIPS 2015): the least important weights become 0, by layer or over all of them.

Patterns that hardware can use: "N:M" keeps N of every M weights that follow each other along the
inputs (Mishra et al., Accelerating Sparse Deep Neural Networks, 2021), "Bx1" removes blocks of B
output channels at one input (Elsen et al., Fast Sparse ConvNets, CVPR 2020).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.layers import layers
from featherglue.compression.calibration import Inputs
from featherglue.compression.layer_selection import select
from featherglue.compression.pruning.importance import Double, Importance, Losses, weight_scores
from featherglue.compression.pruning.masks import Mask, Masks
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model

Scope = Literal["layer", "row", "global"]
_PATTERN = re.compile(r"(?:(?P<n>[1-9]\d*):(?P<m>[1-9]\d*)|(?P<block>[1-9]\d*)x1)?")


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Which weights become 0.

    Attributes:
        ratio: share of the weights that are 0 afterwards, in [0, 1), of every chosen layer
            (scope "layer"), of every output channel ("row", as Wanda compares), or of all chosen
            layers together ("global", all compared with each other). Zeros that are there count.
        ratios: other ratios for some layers, by glob; of several that match the last one counts.
            They do not take part in a "global" comparison. See `allocation.allocate`.
        importance: see `importance`.
        pattern: "" for single weights, "2:4" and the like, or "4x1" and the like. N:M sets the
            ratio itself; layers whose inputs are no multiple of M are left out unless named.
        include: names of layers, with * and ?; none for all. exclude: taken out again.
    """

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    scope: Scope = "layer"
    importance: Importance = "magnitude"
    pattern: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, ratio in (("ratio", self.ratio), *self.ratios.items()):
            if not 0 <= ratio < 1:
                raise ConfigError(f"{name}: a ratio lies in [0, 1), not {ratio}")
        found = _PATTERN.fullmatch(self.pattern)
        if found is None:
            raise ConfigError(f'a pattern is "", "N:M" or "Bx1", not {self.pattern!r}')
        if found["n"] and int(found["n"]) >= int(found["m"]):
            raise ConfigError(f"{self.pattern} keeps everything; N must be less than M")
        if found["n"] and self.scope != "layer":
            raise ConfigError(f"the pattern {self.pattern} is the same everywhere; leave scope out")
        if found["n"] and self.ratios:
            raise ConfigError(f"the pattern {self.pattern} sets the ratio; leave `ratios` empty")


def prune(
    model: Model,
    config: PruneConfig,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> Model:
    """A copy of the model with the least important weights set to 0.

    Args:
        inputs, losses: see `importance.weight_scores`.

    Raises:
        ConfigError: a name that matches no layer.
        UsageError: the model is quantized, or inputs are missing.
    """
    return find_masks(model, config, inputs, losses).apply(model)


def find_masks(
    model: Model,
    config: PruneConfig,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> Masks:
    """The masks that `prune` applies. Arguments and errors as there."""
    refuse_quantized(model)
    ratios = layer_ratios(model.architecture, config)
    scores = weight_scores(model, list(ratios), config.importance, inputs, losses)
    return masks_for(scores, ratios, config)


def refuse_quantized(model: Model) -> None:
    """Raise UsageError for a quantized model: other weights would not be what its codes say."""
    if model.quantization.tensors or model.quantization.activations:
        raise UsageError("this model is quantized; prune first, then quantize")


def layer_ratios(architecture: ArchitectureConfig, config: PruneConfig) -> dict[str, float]:
    """The ratio of each chosen layer, in order.

    Raises:
        ConfigError: a name that matches no layer, or a layer that the pattern does not fit.
    """
    every = {layer.name: layer.shape[1] for layer in layers(architecture)}
    names = list(every)
    found = _PATTERN.fullmatch(config.pattern)
    assert found is not None
    usual, ratio = names, config.ratio
    if found["n"]:
        kept, of = int(found["n"]), int(found["m"])
        usual, ratio = [n for n in names if every[n] % of == 0], 1 - kept / of
    chosen = select(names, usual, config.include, config.exclude)
    if found["n"]:
        for name in chosen:
            if every[name] % int(found["m"]):
                raise ConfigError(
                    f"{name} has {every[name]} inputs, no multiple of {found['m']}: exclude it"
                )
    ratios = dict.fromkeys(chosen, ratio)
    for glob, own in config.ratios.items():
        for name in select(chosen, chosen, (glob,), ()):
            ratios[name] = own
    return ratios


def masks_for(
    scores: Mapping[str, Double], ratios: Mapping[str, float], config: PruneConfig
) -> Masks:
    """What stays of weights of these importances; of every layer at least something does.

    Args:
        scores: by layer, (out, in, …). ratios: of the same layers.
    """
    found = _PATTERN.fullmatch(config.pattern)
    assert found is not None
    if found["n"]:
        few, of = int(found["n"]), int(found["m"])
        return Masks(kept={name: _some_of(score, few, of) for name, score in scores.items()})
    units = {
        name: unit_ids(score.shape, int(found["block"] or 1)) for name, score in scores.items()
    }
    values = {name: _unit_scores(scores[name], ids) for name, ids in units.items()}
    together = [
        name
        for name in scores
        if config.scope == "global" and not any(fnmatchcase(name, g) for g in config.ratios)
    ]
    kept: dict[str, Mask] = {}
    if together:
        flat = [values[name].reshape(-1) for name in together]
        stays = _strongest(np.concatenate(flat), config.ratio)
        parts = np.split(stays, np.cumsum([len(part) for part in flat])[:-1])
        for name, part, value in zip(together, parts, flat, strict=True):
            part[np.argmax(value)] = True
            kept[name] = part[units[name]]
    for name, value in values.items():
        if name not in kept:
            rows = len(value) if config.scope == "row" else 1
            stays = np.stack(
                [_strongest(row, ratios[name]) for row in np.split(value.ravel(), rows)]
            )
            kept[name] = stays.reshape(-1)[units[name]]
    return Masks(kept={name: kept[name] for name in scores})


def unit_ids(shape: Sequence[int], block: int) -> NDArray[np.int64]:
    """Which unit each weight belongs to: weights of `block` output channels at one input share
    one. In the weight's shape; units are numbered by rows of ceil(out / block)."""
    columns = math.prod(shape[1:])
    rows = np.arange(shape[0])[:, None] // block
    return (rows * columns + np.arange(columns)).reshape(shape)


def _unit_scores(scores: Double, ids: NDArray[np.int64]) -> Double:
    """The mean importance of each unit: (rows of units, columns)."""
    flat = ids.reshape(-1)
    means: Double = np.bincount(flat, scores.reshape(-1)) / np.bincount(flat)
    return means.reshape(-1, math.prod(scores.shape[1:]))


def _strongest(values: Double, ratio: float) -> Mask:
    """All but the given share of the values, at least one: those that are largest."""
    removed = min(round(ratio * len(values)), len(values) - 1)
    stays = np.ones(len(values), np.bool_)
    stays[np.argsort(values, kind="stable")[:removed]] = False
    return stays


def _some_of(scores: Double, few: int, of: int) -> Mask:
    """The `few` largest of every `of` neighbours along the inputs."""
    last = np.moveaxis(scores, 1, -1)
    groups = last.reshape(*last.shape[:-1], -1, of)
    rank = np.argsort(np.argsort(-groups, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.ascontiguousarray(np.moveaxis((rank < few).reshape(last.shape), -1, 1))

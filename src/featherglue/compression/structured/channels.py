"""Structured pruning: channels of SuperPoint; heads, hidden channels, features and whole layers of
SuperGlue. What is left is a smaller network of the same kind, which is faster everywhere.

To reach a share of the MACs instead, see `budget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from featherglue.compression.calibration import Inputs
from featherglue.compression.layer_selection import select
from featherglue.compression.pruning.fine_grained import refuse_quantized
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.structured.groups import (
    DESCRIPTOR,
    HEAD_DIM,
    WIDTH,
    group_sizes,
    resized,
)
from featherglue.compression.structured.shrink import drop_layers, shrink
from featherglue.compression.structured.unit_importance import (
    ChannelImportance,
    layer_energies,
    unit_energies,
)
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError
from featherglue.models.model import Model


@dataclass(frozen=True, kw_only=True)
class ChannelConfig:
    """Which groups lose how many of their units; their names are those of `groups`.

    Attributes:
        ratio: share of the units that go, in [0, 1), of every chosen group.
        ratios: other ratios for some groups, by glob; of several that match the last one counts.
        importance: see `rankings`.
        multiple: what is left is a multiple of it, where the group has that many.
        include: globs; none for the channels of the extractor, its heads' included, but not the
            descriptor. exclude: taken out again.
    """

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    importance: ChannelImportance = "l2"
    multiple: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check(self.multiple, {"ratio": self.ratio, **self.ratios})


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """How much a matcher loses of each kind, evenly in all its layers.

    Attributes:
        heads, head_dim, hidden, encoder, width: share that goes, in [0, 1), of the attention
            heads, of their width, of the hidden channels of the message MLPs and of the keypoint
            encoder, and of the features that run through the network.
        layers: number of whole layers that go, those that add least.
        importance, multiple: as in `ChannelConfig`; heads are counted one by one.
    """

    heads: float = 0.0
    head_dim: float = 0.0
    hidden: float = 0.0
    encoder: float = 0.0
    width: float = 0.0
    layers: int = 0
    importance: ChannelImportance = "l2"
    multiple: int = 1

    def __post_init__(self) -> None:
        kinds = ("heads", "head_dim", "hidden", "encoder", "width")
        _check(self.multiple, {kind: getattr(self, kind) for kind in kinds})
        if self.layers < 0:
            raise ConfigError(f"layers cannot be negative, as {self.layers} is")


def _check(multiple: int, ratios: Mapping[str, float]) -> None:
    if multiple < 1:
        raise ConfigError(f"multiple must be at least 1, not {multiple}")
    for name, ratio in ratios.items():
        if not 0 <= ratio < 1:
            raise ConfigError(f"{name}: a ratio lies in [0, 1), not {ratio}")


def prune_channels(
    model: Model,
    config: ChannelConfig,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> Model:
    """A smaller copy of a model.

    Args:
        inputs, losses: see `rankings.unit_energies`.

    Raises:
        ConfigError: a name that matches no group, or nothing would be left of one.
        UsageError: the model is quantized, or inputs are missing.
    """
    refuse_quantized(model)
    sizes = channel_sizes(model.architecture, config)
    energies = unit_energies(model, list(sizes), config.importance, inputs, losses)
    return shrink(model, sizes, energies, inputs)


def channel_sizes(architecture: ArchitectureConfig, config: ChannelConfig) -> dict[str, int]:
    """The size of each chosen group afterwards. Raises ConfigError as `prune_channels` does."""
    old = group_sizes(architecture)
    usual = [name for name in old if name.startswith("extractor.") and name != DESCRIPTOR]
    if not usual and not config.include:
        raise ConfigError("this model has no extractor: say in `include` which groups to prune")
    chosen = select(list(old), usual, config.include, config.exclude)
    ratios = dict.fromkeys(chosen, config.ratio)
    for glob, own in config.ratios.items():
        for name in select(chosen, chosen, (glob,), ()):
            ratios[name] = own
    sizes = {
        name: size_left(name, old[name], ratio, config.multiple) for name, ratio in ratios.items()
    }
    resized(architecture, sizes)
    return sizes


def size_left(name: str, size: int, ratio: float, multiple: int) -> int:
    """What a ratio leaves of a group: the nearest multiple, at least one.

    Raises:
        ConfigError: the ratio takes all.
    """
    left = size - round(ratio * size)
    if left < 1:
        raise ConfigError(f"a ratio of {ratio} leaves none of the {size} units of {name}: lower it")
    if multiple > 1 and size > multiple:
        left = min(size, max(multiple, multiple * round(left / multiple)))
    elif multiple > 1:
        left = size
    return left


def prune_structure(
    model: Model,
    config: StructureConfig,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> Model:
    """A copy of a model with a smaller matcher. Arguments and errors as in `prune_channels`."""
    refuse_quantized(model)
    structure_sizes(model.architecture, config)  # all of it, before any work
    if config.layers:
        model = drop_weakest(model, config.layers, inputs)
    sizes = _structure(model.architecture, config)
    energies = unit_energies(model, list(sizes), config.importance, inputs, losses)
    return shrink(model, sizes, energies, inputs)


def drop_weakest(model: Model, count: int, inputs: Inputs | None) -> Model:
    """A copy without the `count` layers of the matcher that add least, see `layer_energies`.

    They go one by one: without one of them the others see something else.
    """
    for _ in range(count):
        model = drop_layers(model, (int(layer_energies(model, inputs).argmin()),))
    return model


def without_layers(architecture: ArchitectureConfig, count: int) -> ArchitectureConfig:
    """The architecture with `count` layers fewer; which kinds they are is not decided yet.

    Raises:
        ConfigError: no matcher, or none of its layers would be left.
    """
    glue = architecture.matcher
    if glue is None:
        raise ConfigError("this model has no matcher whose layers could go")
    if count >= max(1, len(glue.layers)):
        raise ConfigError(
            f"the matcher has {len(glue.layers)} layers, of which {count} cannot go: at least one "
            "stays"
        )
    return ArchitectureConfig(
        extractor=architecture.extractor,
        matcher=replace(glue, layers=glue.layers[: len(glue.layers) - count]),
    )


def structure_sizes(
    architecture: ArchitectureConfig, config: StructureConfig
) -> tuple[ArchitectureConfig, dict[str, int]]:
    """The architecture once layers are gone, and the sizes of its groups afterwards.

    Raises:
        ConfigError: as `prune_structure` does.
    """
    if architecture.matcher is None:
        raise ConfigError("this model has no matcher to make smaller")
    if config.layers:
        architecture = without_layers(architecture, config.layers)
    return architecture, _structure(architecture, config)


def _structure(architecture: ArchitectureConfig, config: StructureConfig) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, size in group_sizes(architecture).items():
        if not name.startswith("matcher."):
            continue
        ratio, multiple = _share(name, config), config.multiple
        if ratio:
            multiple = 1 if name.endswith(".attn") else multiple
            sizes[name] = size_left(name, size, ratio, multiple)
    resized(architecture, sizes)
    return sizes


def _share(name: str, config: StructureConfig) -> float:
    if name == WIDTH:
        return config.width
    if name.endswith(HEAD_DIM):
        return config.head_dim
    if name.endswith(".attn"):
        return config.heads
    return config.encoder if ".kenc." in name else config.hidden

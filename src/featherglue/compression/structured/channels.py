"""Structured pruning by ratios: the result is a smaller network of the same kind.

SuperPoint loses channels; SuperGlue loses attention heads, hidden channels, feature width and whole
layers. See `mac_budget` for pruning to a fraction of the MACs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from featherglue.compression.calibration import CalibrationData
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.pruning.fine_grained import require_unquantized
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.structured.groups import (
    DESCRIPTOR,
    HEAD_DIM,
    WIDTH,
    group_sizes,
    resized,
)
from featherglue.compression.structured.shrink import remove_layers, shrink
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
    """Settings of channel pruning. The names of groups are those of `groups`.

    Attributes:
        ratio: fraction of the units to remove from every selected group, in [0, 1).
        ratios: ratios of single groups, by glob. The last glob that matches a group applies.
        importance: importance of a channel; see `unit_importance`.
        multiple: sizes are rounded to multiples of this number, if the group has that many units.
        include: globs of groups to prune. Empty selects the channels of the extractor and of its
            heads, without the descriptor.
        exclude: globs of groups to leave out.

    Raises:
        ConfigError: a value is out of range.
    """

    ratio: float = 0.5
    ratios: dict[str, float] = field(default_factory=dict)
    importance: ChannelImportance = "l2"
    multiple: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_ratios(self.multiple, {"ratio": self.ratio, **self.ratios})


@dataclass(frozen=True, kw_only=True)
class StructureConfig:
    """Settings of structured pruning of a matcher, the same in all its layers.

    Ratios are fractions to remove, in [0, 1).

    Attributes:
        heads: ratio of the attention heads.
        head_dim: ratio of the width of every head.
        hidden: ratio of the hidden channels of the message MLPs.
        encoder: ratio of the hidden channels of the keypoint encoder.
        width: ratio of the feature width.
        layers: number of whole layers to remove, those that change the features least.
        importance: as in `ChannelConfig`.
        multiple: as in `ChannelConfig`; it does not apply to the number of heads.

    Raises:
        ConfigError: a value is out of range.
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
        _check_ratios(self.multiple, {kind: getattr(self, kind) for kind in kinds})
        if self.layers < 0:
            raise ConfigError(f"layers must be at least 0, not {self.layers}")


def _check_ratios(multiple: int, ratios: Mapping[str, float]) -> None:
    if multiple < 1:
        raise ConfigError(f"multiple must be at least 1, not {multiple}")
    for name, ratio in ratios.items():
        if not 0 <= ratio < 1:
            raise ConfigError(f"{name}: a ratio must be in [0, 1), not {ratio}")


def prune_channels(
    model: Model,
    config: ChannelConfig,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> Model:
    """Return a copy of a model with fewer channels.

    Args:
        calibration, losses: as in `unit_importance.unit_energies`.

    Raises:
        ConfigError: a glob matches no group, or a group would be empty.
        UsageError: the model is quantized, or calibration data is missing.
    """
    require_unquantized(model)
    sizes = channel_sizes(model.architecture, config)
    energies = unit_energies(model, list(sizes), config.importance, calibration, losses)
    return shrink(model, sizes, energies, calibration)


def channel_sizes(architecture: ArchitectureConfig, config: ChannelConfig) -> dict[str, int]:
    """Return the new size of each selected group. Raises ConfigError as `prune_channels` does."""
    old = group_sizes(architecture)
    default = [name for name in old if name.startswith("extractor.") and name != DESCRIPTOR]
    if not default and not config.include:
        raise ConfigError("this model has no extractor: name the groups to prune in `include`")
    selected = select_layers(list(old), default, config.include, config.exclude)
    ratios = dict.fromkeys(selected, config.ratio)
    for glob, group_ratio in config.ratios.items():
        for name in select_layers(selected, selected, (glob,), ()):
            ratios[name] = group_ratio
    sizes = {
        name: remaining_size(name, old[name], ratio, config.multiple)
        for name, ratio in ratios.items()
    }
    resized(architecture, sizes)
    return sizes


def remaining_size(name: str, size: int, ratio: float, multiple: int) -> int:
    """Return the size of a group after pruning, rounded to the nearest multiple.

    Raises:
        ConfigError: the ratio removes all units.
    """
    left = size - round(ratio * size)
    if left < 1:
        raise ConfigError(f"a ratio of {ratio} removes all {size} units of {name}: lower it")
    if multiple > 1 and size > multiple:
        left = min(size, max(multiple, multiple * round(left / multiple)))
    elif multiple > 1:
        left = size
    return left


def prune_structure(
    model: Model,
    config: StructureConfig,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> Model:
    """Return a copy of a model with a smaller matcher.

    Arguments and errors are those of `prune_channels`.
    """
    require_unquantized(model)
    structure_sizes(model.architecture, config)  # raises before any work is done
    if config.layers:
        model = remove_weakest_layers(model, config.layers, calibration)
    sizes = _matcher_sizes(model.architecture, config)
    energies = unit_energies(model, list(sizes), config.importance, calibration, losses)
    return shrink(model, sizes, energies, calibration)


def remove_weakest_layers(model: Model, count: int, calibration: CalibrationData | None) -> Model:
    """Return a copy without the `count` matcher layers of the lowest energy.

    Layers are removed one at a time, because each removal changes the inputs of the other layers.
    See `unit_importance.layer_energies`.
    """
    for _ in range(count):
        model = remove_layers(model, (int(layer_energies(model, calibration).argmin()),))
    return model


def without_layers(architecture: ArchitectureConfig, count: int) -> ArchitectureConfig:
    """Return an architecture with `count` fewer matcher layers.

    Which layers are removed depends on the weights, so their kinds may differ in the result.

    Raises:
        ConfigError: there is no matcher, or it would have no layers.
    """
    matcher = architecture.matcher
    if matcher is None:
        raise ConfigError("this model has no matcher from which layers can be removed")
    if count >= max(1, len(matcher.layers)):
        raise ConfigError(
            f"the matcher has {len(matcher.layers)} layers; {count} of them cannot be removed, "
            "because at least one must remain"
        )
    return ArchitectureConfig(
        extractor=architecture.extractor,
        matcher=replace(matcher, layers=matcher.layers[: len(matcher.layers) - count]),
    )


def structure_sizes(
    architecture: ArchitectureConfig, config: StructureConfig
) -> tuple[ArchitectureConfig, dict[str, int]]:
    """Return the architecture without the removed layers, and the new sizes of its groups.

    Raises:
        ConfigError: as in `prune_structure`.
    """
    if architecture.matcher is None:
        raise ConfigError("this model has no matcher to prune")
    if config.layers:
        architecture = without_layers(architecture, config.layers)
    return architecture, _matcher_sizes(architecture, config)


def _matcher_sizes(architecture: ArchitectureConfig, config: StructureConfig) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, size in group_sizes(architecture).items():
        if not name.startswith("matcher."):
            continue
        ratio, multiple = _ratio_of(name, config), config.multiple
        if ratio:
            multiple = 1 if name.endswith(".attn") else multiple
            sizes[name] = remaining_size(name, size, ratio, multiple)
    resized(architecture, sizes)
    return sizes


def _ratio_of(name: str, config: StructureConfig) -> float:
    if name == WIDTH:
        return config.width
    if name.endswith(HEAD_DIM):
        return config.head_dim
    if name.endswith(".attn"):
        return config.heads
    return config.encoder if ".kenc." in name else config.hidden

"""A model at a share of its cost: which widths to give up for it.

Every group that shrinks keeps a share e of its energy (see `rankings`). What is lost is noise to
what is kept, (1 − e) / e of it, and the noise of groups that follow each other adds up. The widths
are those with least noise at the wanted cost: again and again the group gives up a few units
that adds least noise for what it saves. Where energies are alike, widths end up the smaller the
more a unit costs: conv1a to conv2b, with 66 % of SuperPoint's MACs, shrink most.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from featherglue.artifact.layers import attention_macs, layers
from featherglue.compression.calibration import Inputs
from featherglue.compression.layer_selection import select
from featherglue.compression.pruning.fine_grained import refuse_quantized
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.structured.channels import drop_weakest, without_layers
from featherglue.compression.structured.groups import DESCRIPTOR, WIDTH, group_sizes, resized
from featherglue.compression.structured.shrink import shrink
from featherglue.compression.structured.unit_importance import (
    ChannelImportance,
    Double,
    unit_energies,
)
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError
from featherglue.models.model import Model

Cost = Callable[[ArchitectureConfig], float]
ATTENTION = "matcher.attention"  # its products, which belong to no layer with weights


@dataclass(frozen=True, kw_only=True)
class MacsConfig:
    """Down to which share of the cost, and where.

    Attributes:
        share: of the cost of one extraction and one match that is left, in (0, 1].
        latencies: layer → milliseconds (or any other cost) where they were measured, with
            "matcher.attention" for the products of attention and similarity; each then falls with
            its layer's MACs. None counts MACs.
        image_size: (width, height), keypoints: for which MACs are counted.
        layers: number of whole layers of the matcher that go first.
        least: share of its units that every group keeps at least, in (0, 1].
        importance: see `rankings`. multiple: widths are multiples of it, where they can be.
        include: globs of groups; none for all but the heads' number and the descriptor.
            exclude: taken out again.
    """

    share: float
    latencies: dict[str, float] | None = None
    image_size: tuple[int, int] = (640, 480)
    keypoints: int = 512
    layers: int = 0
    least: float = 0.125
    importance: ChannelImportance = "l2"
    multiple: int = 8
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("share", "least"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in (0, 1], not {getattr(self, name)}")
        if min(self.multiple, self.keypoints, *self.image_size) < 1:
            raise ConfigError("multiple, keypoints and image_size must be at least 1")
        if self.layers < 0:
            raise ConfigError(f"layers cannot be negative, as {self.layers} is")
        for name, cost in (self.latencies or {}).items():
            if not 0 <= cost < math.inf:
                raise ConfigError(f"latencies: {name} cannot cost {cost}")


def prune_to_macs(
    model: Model,
    config: MacsConfig,
    inputs: Inputs | None = None,
    losses: Losses | None = None,
) -> Model:
    """A smaller copy of a model that costs at most this share of it.

    Args:
        inputs, losses: see `rankings.unit_energies`.

    Raises:
        ConfigError: names that match nothing, latencies that lack a layer, or a share that cannot
            be reached, with the least that can.
        UsageError: the model is quantized, or inputs are missing.
    """
    refuse_quantized(model)
    check_macs(model.architecture, config)
    cost = cost_of(model.architecture, config)
    target = config.share * cost(model.architecture)
    if config.layers:
        model = drop_weakest(model, config.layers, inputs)
    names = macs_groups(model.architecture, config)
    energies = unit_energies(model, names, config.importance, inputs, losses)
    sizes = sizes_for(model.architecture, energies, cost, target, config)
    return shrink(model, sizes, energies, inputs)


def check_macs(architecture: ArchitectureConfig, config: MacsConfig) -> ArchitectureConfig:
    """Raise ConfigError where `prune_to_macs` would; else the smallest that may come out."""
    cost = cost_of(architecture, config)
    before = cost(architecture)
    if config.layers:
        architecture = without_layers(architecture, config.layers)
    old = group_sizes(architecture)
    smallest: dict[str, int] = {}
    for name in macs_groups(architecture, config):
        lower: int | None = old[name]
        while lower is not None:
            smallest[name] = lower
            lower = _next(name, lower, old[name], architecture, config)
    least = resized(architecture, smallest)
    if cost(least) > config.share * before:
        raise ConfigError(
            f"{config.share:.3g} of the cost cannot be reached: these groups get to "
            f"{cost(least) / before:.3g} at most; include more, lower `least`, or drop layers"
        )
    return least


def macs_groups(architecture: ArchitectureConfig, config: MacsConfig) -> list[str]:
    """The groups that may shrink, in order."""
    names = list(group_sizes(architecture))
    usual = [name for name in names if name != DESCRIPTOR and not name.endswith(".attn")]
    chosen = select(names, usual, config.include, config.exclude)
    if WIDTH in chosen and DESCRIPTOR in chosen:
        raise ConfigError(f"{DESCRIPTOR} and {WIDTH} cannot both give way; exclude one of them")
    return chosen


def cost_of(architecture: ArchitectureConfig, config: MacsConfig) -> Cost:
    """What architectures like this one cost: MACs, or latencies that fall with them."""
    size, keypoints = config.image_size, config.keypoints
    macs = _macs(architecture, size, keypoints)
    rates = dict.fromkeys(macs, 1.0)
    other = 1.0
    if config.latencies is not None:
        missing = sorted(set(macs) - set(config.latencies))
        unknown = sorted(set(config.latencies) - set(macs))
        if missing or unknown:
            state = "is missing" if missing else "belongs to no layer"
            raise ConfigError(f"latencies: {(missing or unknown)[0]} {state}")
        rates = {name: config.latencies[name] / max(1, count) for name, count in macs.items()}
        other = sum(config.latencies.values()) / sum(macs.values())

    def cost(shrunk: ArchitectureConfig) -> float:
        counts = _macs(shrunk, size, keypoints)
        return sum(rates.get(name, other) * count for name, count in counts.items())

    return cost


def _macs(
    architecture: ArchitectureConfig, size: tuple[int, int], keypoints: int
) -> dict[str, int]:
    counts = {layer.name: layer.macs(size, keypoints) for layer in layers(architecture)}
    if architecture.matcher is not None:
        counts[ATTENTION] = attention_macs(architecture.matcher, keypoints)
    return counts


def sizes_for(
    architecture: ArchitectureConfig,
    energies: Mapping[str, Double],
    cost: Cost,
    target: float,
    config: MacsConfig,
) -> dict[str, int]:
    """The sizes of the groups that keep most, at a cost of at most `target`.

    Args:
        energies: of the units of every group that may shrink, of sum 1.
    """
    old = group_sizes(architecture)
    sizes = {name: old[name] for name in energies}
    kept = {name: _kept_by_size(values) for name, values in energies.items()}
    depth = len(architecture.matcher.layers) if architecture.matcher is not None else 0
    now = cost(architecture)

    def step(name: str) -> tuple[float, str, int] | None:
        """The noise of the next smaller size for what it saves, and that size."""
        size = sizes[name]
        lower = _next(name, size, old[name], architecture, config)
        if lower is None:
            return None
        noise = 1 / kept[name][lower] - 1 / kept[name][size]
        noise *= depth + 1 if name == WIDTH else 1  # every layer reads the features
        saved = now - cost(resized(architecture, {**sizes, name: lower}))
        return noise / max(saved, 1e-9), name, lower

    queue = [entry for name in sizes if (entry := step(name)) is not None]
    heapq.heapify(queue)
    while now > target and queue:
        _, name, _ = heapq.heappop(queue)
        fresh = step(name)  # savings fall as others shrink: what is old looks cheaper than it is
        if fresh is None:
            continue
        if queue and fresh > queue[0]:
            heapq.heappush(queue, fresh)
            continue
        sizes[name] = fresh[2]
        now = cost(resized(architecture, sizes))
        if (following := step(name)) is not None:
            heapq.heappush(queue, following)
    return sizes


def _kept_by_size(energies: Double) -> list[float]:
    """The share of the energy in the strongest 0, 1, … units; never 0."""
    kept = [1e-12]
    for energy in sorted(energies.tolist(), reverse=True):
        kept.append(kept[-1] + energy)
    return kept


def _next(
    name: str, size: int, whole: int, architecture: ArchitectureConfig, config: MacsConfig
) -> int | None:
    """The size below `size` that the group may have; None at its least."""
    glue = architecture.matcher
    least = max(1, math.ceil(config.least * whole))
    multiple = 1 if name.endswith(".attn") else config.multiple
    if whole >= multiple:
        least = multiple * math.ceil(least / multiple)
    step = multiple if whole >= multiple else 1
    lower = (size - 1) // step * step
    other = {WIDTH: glue and glue.descriptor_dim, DESCRIPTOR: glue and glue.width}.get(name)
    if lower == other:
        lower -= step  # there is no projection between equal widths
    return lower if lower >= least else None

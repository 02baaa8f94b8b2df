"""Structured pruning to a fraction of the MACs, or of measured latencies.

A group that keeps a fraction e of its energy (see `unit_importance`) adds noise (1 − e) / e to the
signal, and the noise of all groups adds up. A greedy search removes units from the group that adds
the least noise for the cost that it saves, until the budget is met. With equal energies the groups
whose units cost most shrink most: conv1a to conv2b take 66 % of the MACs of SuperPoint.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from featherglue.artifact.layers import attention_macs, layers
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.pruning.fine_grained import require_unquantized
from featherglue.compression.pruning.importance import Losses
from featherglue.compression.structured.channels import remove_weakest_layers, without_layers
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
ATTENTION = "matcher.attention"  # the products of attention, which have no weights


@dataclass(frozen=True, kw_only=True)
class MacsConfig:
    """Settings of structured pruning to a budget.

    Attributes:
        budget: fraction of the cost of one extraction and one match that remains, in (0, 1].
        latencies: layer name → measured latency in ms, or any other cost. The key
            "matcher.attention" holds the products of attention and the similarity matrix. The cost
            of a layer is taken to be proportional to its MACs. None uses MACs as the cost.
        image_size: (width, height) in pixels for which MACs are counted.
        num_keypoints: number of keypoints of each image for which MACs are counted.
        layers: number of whole matcher layers to remove first.
        min_fraction: minimum fraction of its units that a group keeps, in (0, 1].
        importance: importance of a unit; see `unit_importance`.
        multiple: sizes are multiples of this number where possible.
        include: globs of groups to prune. Empty selects all groups except the numbers of heads and
            the descriptor.
        exclude: globs of groups to leave out.

    Raises:
        ConfigError: a value is out of range.
    """

    budget: float
    latencies: dict[str, float] | None = None
    image_size: tuple[int, int] = (640, 480)
    num_keypoints: int = 512
    layers: int = 0
    min_fraction: float = 0.125
    importance: ChannelImportance = "l2"
    multiple: int = 8
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("budget", "min_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in (0, 1], not {getattr(self, name)}")
        if min(self.multiple, self.num_keypoints, *self.image_size) < 1:
            raise ConfigError("multiple, num_keypoints and image_size must be at least 1")
        if self.layers < 0:
            raise ConfigError(f"layers must be at least 0, not {self.layers}")
        for name, cost in (self.latencies or {}).items():
            if not 0 <= cost < math.inf:
                raise ConfigError(f"latencies: {name} must be finite and at least 0, not {cost}")


def prune_to_macs(
    model: Model,
    config: MacsConfig,
    calibration: CalibrationData | None = None,
    losses: Losses | None = None,
) -> Model:
    """Return a smaller copy of a model that meets the budget.

    Args:
        calibration, losses: as in `unit_importance.unit_energies`.

    Raises:
        ConfigError: a glob matches nothing, a latency is missing, or the budget cannot be met.
        UsageError: the model is quantized, or calibration data is missing.
    """
    require_unquantized(model)
    check_macs(model.architecture, config)
    cost = cost_of(model.architecture, config)
    target = config.budget * cost(model.architecture)
    if config.layers:
        model = remove_weakest_layers(model, config.layers, calibration)
    names = macs_groups(model.architecture, config)
    energies = unit_energies(model, names, config.importance, calibration, losses)
    sizes = find_sizes(model.architecture, energies, cost, target, config)
    return shrink(model, sizes, energies, calibration)


def check_macs(architecture: ArchitectureConfig, config: MacsConfig) -> ArchitectureConfig:
    """Return the smallest architecture that the settings allow.

    Raises:
        ConfigError: as in `prune_to_macs`.
    """
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
            lower = _next_size(name, lower, old[name], architecture, config)
    minimum = resized(architecture, smallest)
    if cost(minimum) > config.budget * before:
        raise ConfigError(
            f"budget {config.budget:.3g} cannot be reached: the smallest possible budget is "
            f"{cost(minimum) / before:.3g}; include more groups, lower `min_fraction`, or raise "
            "`layers`"
        )
    return minimum


def macs_groups(architecture: ArchitectureConfig, config: MacsConfig) -> list[str]:
    """Return the groups that may shrink, in network order.

    Raises:
        ConfigError: a glob matches nothing, or both widths are selected.
    """
    names = list(group_sizes(architecture))
    default = [name for name in names if name != DESCRIPTOR and not name.endswith(".attn")]
    selected = select_layers(names, default, config.include, config.exclude)
    if WIDTH in selected and DESCRIPTOR in selected:
        raise ConfigError(f"{DESCRIPTOR} and {WIDTH} cannot both shrink; exclude one of them")
    return selected


def cost_of(architecture: ArchitectureConfig, config: MacsConfig) -> Cost:
    """Return a function that computes the cost of smaller versions of an architecture.

    Raises:
        ConfigError: a latency is missing, or belongs to no layer.
    """
    size, keypoints = config.image_size, config.num_keypoints
    macs = _macs(architecture, size, keypoints)
    rates = dict.fromkeys(macs, 1.0)
    other = 1.0
    if config.latencies is not None:
        missing = sorted(set(macs) - set(config.latencies))
        unknown = sorted(set(config.latencies) - set(macs))
        if missing or unknown:
            state = "is missing" if missing else "is not a layer"
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


def find_sizes(
    architecture: ArchitectureConfig,
    energies: Mapping[str, Double],
    cost: Cost,
    target: float,
    config: MacsConfig,
) -> dict[str, int]:
    """Return the group sizes with the least noise at a cost of at most `target`.

    Args:
        architecture: architecture before pruning.
        energies: group name → energy of each unit, of sum 1, for every group that may shrink.
        cost: cost of an architecture.
        target: maximum cost.
        config: bounds of the sizes.
    """
    old = group_sizes(architecture)
    sizes = {name: old[name] for name in energies}
    kept = {name: _kept_by_size(values) for name, values in energies.items()}
    depth = len(architecture.matcher.layers) if architecture.matcher is not None else 0
    now = cost(architecture)

    def step(name: str) -> tuple[float, str, int] | None:
        """Return the added noise for each unit of saved cost, the group and its next size."""
        size = sizes[name]
        lower = _next_size(name, size, old[name], architecture, config)
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
        fresh = step(name)  # savings decrease as other groups shrink, so the queue is outdated
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
    """Return the fraction of the energy in the strongest 0, 1, … units; never 0."""
    kept = [1e-12]
    for energy in sorted(energies.tolist(), reverse=True):
        kept.append(kept[-1] + energy)
    return kept


def _next_size(
    name: str, size: int, whole: int, architecture: ArchitectureConfig, config: MacsConfig
) -> int | None:
    """Return the largest allowed size below `size`, or None at the minimum."""
    glue = architecture.matcher
    minimum = max(1, math.ceil(config.min_fraction * whole))
    multiple = 1 if name.endswith(".attn") else config.multiple
    if whole >= multiple:
        minimum = multiple * math.ceil(minimum / multiple)
    step = multiple if whole >= multiple else 1
    lower = (size - 1) // step * step
    other = {WIDTH: glue and glue.descriptor_dim, DESCRIPTOR: glue and glue.width}.get(name)
    if lower == other:
        lower -= step  # a matcher of the width of its descriptors has no projection
    return lower if lower >= minimum else None

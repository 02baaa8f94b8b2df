"""How much each layer minds: all layers, one by one, pruned and quantized by degrees (Han et al.,
Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015, section 4.1).

A scan runs from coarse to fine: first the hardest level of all layers, then the middle, then what
lies between, so that one that is stopped has every layer's curve, with fewer points.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.layers import layers
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.pruning.fine_grained import PruneConfig, prune, require_unquantized
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.sensitivity.allocation import allocate, weight_counts
from featherglue.sensitivity.results import (
    UNCHANGED,
    Change,
    Row,
    Scan,
    What,
    model_hash,
    open_scan,
    write_rows,
)

Score = Callable[[Model], Mapping[str, float]]
LEVELS: Mapping[What, tuple[float, ...]] = {
    "prune": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "codebook": (2, 3, 4, 5, 6, 7, 8),
    "linear": (4, 5, 6, 7, 8),
}


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """What is tried.

    Attributes:
        what: "prune" by magnitude, "codebook" for k-means, or "linear" for whole numbers; weights
            alone, with the defaults of their configurations.
        levels: ratios in [0, 1) to prune, or bits: 2 to 8 of a codebook, 4 to 8 linearly; none for
            all of `LEVELS`.
        include: names of layers, with * and ?; none for all. exclude: taken out again.
        minutes: stop, resumable, after this time.
    """

    what: What = "prune"
    levels: tuple[float, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    minutes: float = math.inf

    def __post_init__(self) -> None:
        if self.what not in LEVELS:
            raise ConfigError(f"what is one of {', '.join(LEVELS)}, not {self.what!r}")
        if not self.minutes > 0:
            raise ConfigError(f"minutes must be positive, not {self.minutes}")
        for level in self.levels:
            step_of(Change("*", self.what, level))

    @property
    def all_levels(self) -> tuple[float, ...]:
        """The levels, each once, rising."""
        return tuple(sorted(set(self.levels or LEVELS[self.what])))


def scan(
    model: Model,
    score: Score,
    folder: str | os.PathLike[str],
    config: ScanConfig | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Change], None] = lambda done, total, change: None,
) -> Scan:
    """Score a model with each of its layers changed, and keep what was found in a folder.

    Every score is written as soon as it is there: a scan that is stopped, by the clock, an error
    or Ctrl-C, loses nothing but the score that was being made, and the same call goes on. Scans of
    one model by one score share a folder, whatever is tried.

    Args:
        model: not quantized; for "linear" with batch normalisation folded, see `prepared`.
        score: names → numbers, the higher the better; always the same names.
        folder: for the files of `scans`.
        about: plain values, what shapes the score: a scan by another one is refused.
        progress: called with the number of changes that are scored and of all, and with the
            change whose score comes next.

    Returns:
        all that the folder holds, earlier scans included.

    Raises:
        ConfigError: names that match no layer, levels that cannot be.
        UsageError: a quantized model, or a folder with another model's scan.
        OutputError: the folder cannot be written.
    """
    config = config or ScanConfig()
    require_unquantized(model)
    end = time.monotonic() + 60 * config.minutes
    changes = plan(model.architecture, config)
    found = open_scan(folder, model_hash(model), about or {})
    rows = list(found.rows)
    known = {row.change for row in rows}
    left = [change for change in (UNCHANGED, *changes) if change not in known]
    done = len(changes) - sum(change != UNCHANGED for change in left)
    for change in left:
        if time.monotonic() > end:
            break
        progress(done, len(changes), change)
        start = time.monotonic()
        scores = dict(score(changed(model, change)))
        rows.append(Row(change, scores, time.monotonic() - start))
        rows.sort(key=lambda row: row.change != UNCHANGED)
        write_rows(folder, rows)
        done += change != UNCHANGED
    return Scan(rows=tuple(rows), settings=found.settings)


def plan(architecture: ArchitectureConfig, config: ScanConfig) -> list[Change]:
    """The changes in the order in which they are scored. Raises ConfigError for unknown names."""
    names = [layer.name for layer in layers(architecture)]
    chosen = select_layers(names, names, config.include, config.exclude)
    hardest_last = config.all_levels if config.what == "prune" else config.all_levels[::-1]
    return [
        Change(name, config.what, level)
        for level in coarse_to_fine(hardest_last)
        for name in chosen
    ]


def coarse_to_fine(levels: Sequence[float]) -> list[float]:
    """Levels, from mild to hard, such that the first few of them tell most: the hardest, then the
    middles of the widest gaps, of which the first one begins where nothing is changed."""
    taken = [-1, len(levels) - 1]
    order = [len(levels) - 1]
    while len(order) < len(levels):
        taken.sort()
        gaps = [(after - before, before, after) for before, after in pairwise(taken)]
        _, before, after = max(gaps, key=lambda gap: (gap[0], gap[1]))
        order.append((before + after + 1) // 2)
        taken.append(order[-1])
    return [levels[i] for i in order]


def changed(model: Model, change: Change) -> Model:
    """A copy of the model with a change. Raises ConfigError where it cannot be."""
    if change == UNCHANGED:
        return model
    step = step_of(change)
    if isinstance(step, PruneConfig):
        return prune(model, step)
    if isinstance(step, CodebookConfig):
        return quantize_codebook(model, step)
    return quantize_linear(model, step)


def step_of(change: Change) -> PruneConfig | CodebookConfig | LinearConfig:
    """The step of a recipe that makes a change. Raises ConfigError for a level out of range."""
    include = (change.layer,)
    if change.what == "prune":
        return PruneConfig(ratio=change.level, include=include)
    if change.level != int(change.level):
        raise ConfigError(f"bits are whole numbers, which {change.level} is not")
    bits = int(change.level)
    if change.what == "codebook":
        return CodebookConfig(bits=bits, include=include)
    return LinearConfig(bits=bits, activation_bits=0, correct_bias=False, include=include)


def prepared(model: Model, what: What) -> Model:
    """The model as it is scanned: for "linear" with batch normalisation folded, which that
    needs, else as it is."""
    return Model.from_artifact(fold_batch_norm(model.to_artifact())) if what == "linear" else model


def ratios_for(
    found: Scan, architecture: ArchitectureConfig, sparsity: float, metric: str = ""
) -> dict[str, float]:
    """The ratio of each scanned layer that costs least for a given share of zeros.

    Args:
        sparsity: share of zeros among all weights of the scanned layers, in [0, 1).
        metric: the score whose points count; "" for the mean of all.

    Returns:
        layer → ratio, the `ratios` of a `PruneConfig`.

    Raises:
        ConfigError: as `allocation.allocate`. UsageError: a scan without its first score.
    """
    costs = found.costs("prune", metric)
    weights = {name: count for name, count in weight_counts(architecture).items() if name in costs}
    return allocate(costs, weights, sparsity)

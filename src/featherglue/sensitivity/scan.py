"""Sensitivity scan: score a model with each layer pruned or quantized at several levels.

Han et al., Learning both Weights and Connections for Efficient Neural Networks, NIPS 2015, section
4.1. A scan runs from coarse to fine: the strongest level of all layers first, then the middle
level, then the levels in between. A stopped scan thus has a coarse curve for every layer.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

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
from featherglue.sensitivity.pair_scores import PairScores
from featherglue.sensitivity.results import (
    UNCHANGED,
    Change,
    Method,
    Row,
    Scan,
    model_fingerprint,
    open_scan,
    write_rows,
)


@dataclass(frozen=True)
class Measurement:
    """What a scan stores about a model.

    Attributes:
        scores: name → score. Higher is better.
        pairs: scores of each pair by state; see `HomographyScorer.measure`.
    """

    scores: Mapping[str, float]
    pairs: Mapping[str, PairScores] = field(default_factory=dict)


Score = Callable[[Model], "Mapping[str, float] | Measurement"]
Order = Literal["even", "adaptive"]
LEVELS: Mapping[Method, tuple[float, ...]] = {
    "prune": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    "codebook": (2, 3, 4, 5, 6, 7, 8),
    "linear": (4, 5, 6, 7, 8),
}


@dataclass(frozen=True, kw_only=True)
class ScanConfig:
    """Settings of a scan.

    Attributes:
        method: "prune" by magnitude, "codebook" (k-means quantization) or "linear" quantization.
            Only weights are changed, with the default settings of the method.
        levels: pruning ratios in [0, 1), or bits: 2 to 8 for "codebook", 4 to 8 for "linear".
            Empty uses all of `LEVELS`.
        include: globs of layer names to scan. Empty selects all layers.
        exclude: globs of layer names to exclude.
        minutes: stop after this time; None for no limit. The scan can be continued.
        order: order of the scores. "even" scores all layers at one level before the next level.
            "adaptive" scores all layers at the strongest level, and then halves the interval of
            levels with the largest change of the mean score, so that sensitive layers are first.

    Raises:
        ConfigError: an unknown method, or a value out of range.
    """

    method: Method = "prune"
    levels: tuple[float, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    minutes: float | None = None
    order: Order = "even"

    def __post_init__(self) -> None:
        if self.method not in LEVELS:
            raise ConfigError(f"method must be one of {', '.join(LEVELS)}, not {self.method!r}")
        if self.order not in ("even", "adaptive"):
            raise ConfigError(f"order must be even or adaptive, not {self.order!r}")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes must be positive, not {self.minutes}")
        for level in self.levels:
            step_of(Change("*", self.method, level))

    @property
    def all_levels(self) -> tuple[float, ...]:
        """The distinct levels in ascending order."""
        return tuple(sorted(set(self.levels or LEVELS[self.method])))

    @property
    def mild_to_strong(self) -> tuple[float, ...]:
        """The distinct levels from the mildest to the strongest."""
        return self.all_levels if self.method == "prune" else self.all_levels[::-1]


def scan(
    model: Model,
    score: Score,
    folder: str | os.PathLike[str],
    config: ScanConfig | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int, Change], None] = lambda done, total, change: None,
    clock: Callable[[], float] = time.monotonic,
) -> Scan:
    """Score a model with each of its layers changed, and store the scores in a folder.

    Every score is written at once. A stopped scan loses only the score in progress, and the same
    call continues it. Scans of one model with different methods share a folder.

    Args:
        model: an unquantized model. For "linear", batch normalization must be folded; see
            `prepare_model`.
        score: returns name → score, always with the same names. Higher is better.
        folder: folder of the files; see `results`.
        config: what to scan.
        about: plain values that affect the scores. They must equal those of an existing scan.
        progress: called with the number of scored changes, the number of all changes, and the
            change that is scored next.
        clock: returns seconds from any origin.

    Returns:
        All rows in the folder, including those of earlier scans.

    Raises:
        ConfigError: a glob matches no layer, or a level is invalid.
        UsageError: the model is quantized, or the folder contains another scan.
        OutputError: the folder cannot be written.
    """
    config = config or ScanConfig()
    require_unquantized(model)
    end = math.inf if config.minutes is None else clock() + 60 * config.minutes
    changes = plan(model.architecture, config)
    found = open_scan(folder, model_fingerprint(model), about or {})
    rows = list(found.rows)
    while clock() <= end:
        change = _next_change(changes, rows, config)
        if change is None:
            break
        known = {row.change for row in rows}
        progress(sum(change in known for change in changes), len(changes), change)
        start = clock()
        measured = score(apply_change(model, change))
        if not isinstance(measured, Measurement):
            measured = Measurement(measured)
        rows.append(Row(change, dict(measured.scores), clock() - start, measured.pairs))
        rows.sort(key=lambda row: row.change != UNCHANGED)
        write_rows(folder, rows)
    return Scan(rows=tuple(rows), settings=found.settings)


def _next_change(
    changes: Sequence[Change], rows: Sequence[Row], config: ScanConfig
) -> Change | None:
    """Return the change to score next, or None if all changes are scored."""
    scores = {row.change: float(np.mean(list(row.scores.values()))) for row in rows}
    if UNCHANGED not in scores:
        return UNCHANGED
    left = [change for change in changes if change not in scores]
    if not left:
        return None
    if config.order == "even" or left[0].level == changes[0].level:
        return left[0]
    return _steepest(left, config.mild_to_strong, scores)


def _steepest(
    left: Sequence[Change], levels: Sequence[float], scores: Mapping[Change, float]
) -> Change:
    """Return the middle of the interval of levels over which the score changes most.

    Intervals lie between scored levels, where the unchanged model counts as a level. Of equal
    intervals, the one with the most levels is first.

    Args:
        left: changes without scores. The strongest level of each of their layers is scored.
        levels: all levels from mild to strong.
        scores: score of each scored change.
    """
    best, best_change = (-1.0, 0), left[0]
    for layer in dict.fromkeys(change.layer for change in left):
        changes = [UNCHANGED, *(Change(layer, left[0].method, level) for level in levels)]
        scored = [i for i, change in enumerate(changes) if change in scores]
        for before, after in pairwise(scored):
            fall = abs(scores[changes[before]] - scores[changes[after]])
            if after - before > 1 and (fall, after - before) > best:
                best, best_change = (fall, after - before), changes[(before + after + 1) // 2]
    return best_change


def plan(architecture: ArchitectureConfig, config: ScanConfig) -> list[Change]:
    """Return the changes in the order of scoring. Raises ConfigError for unknown names."""
    names = [layer.name for layer in layers(architecture)]
    selected = select_layers(names, names, config.include, config.exclude)
    return [
        Change(name, config.method, level)
        for level in coarse_to_fine(config.mild_to_strong)
        for name in selected
    ]


def coarse_to_fine(levels: Sequence[float]) -> list[float]:
    """Sort levels so that every prefix covers the range evenly.

    The strongest level is first, followed by the middle of the widest gap between the levels so
    far, where the unchanged model counts as a level.

    Args:
        levels: levels from mild to strong.
    """
    taken = [-1, len(levels) - 1]
    order = [len(levels) - 1]
    while len(order) < len(levels):
        taken.sort()
        gaps = [(after - before, before, after) for before, after in pairwise(taken)]
        _, before, after = max(gaps, key=lambda gap: (gap[0], gap[1]))
        order.append((before + after + 1) // 2)
        taken.append(order[-1])
    return [levels[i] for i in order]


def apply_change(model: Model, change: Change) -> Model:
    """Return a copy of the model with one change. Raises ConfigError if it is impossible."""
    if change == UNCHANGED:
        return model
    step = step_of(change)
    if isinstance(step, PruneConfig):
        return prune(model, step)
    if isinstance(step, CodebookConfig):
        return quantize_codebook(model, step)
    return quantize_linear(model, step)


def step_of(change: Change) -> PruneConfig | CodebookConfig | LinearConfig:
    """Return the recipe step of a change. Raises ConfigError for a level out of range."""
    include = (change.layer,)
    if change.method == "prune":
        return PruneConfig(ratio=change.level, include=include)
    if change.level != int(change.level):
        raise ConfigError(f"a number of bits must be an integer, not {change.level}")
    bits = int(change.level)
    if change.method == "codebook":
        return CodebookConfig(bits=bits, include=include)
    return LinearConfig(bits=bits, activation_bits=0, correct_bias=False, include=include)


def prepare_model(model: Model, method: Method) -> Model:
    """Return the model to scan: with batch normalization folded for "linear", else unchanged."""
    if method == "linear":
        return Model.from_artifact(fold_batch_norm(model.to_artifact()))
    return model


def ratios_for(
    found: Scan, architecture: ArchitectureConfig, sparsity: float, metric: str = ""
) -> dict[str, float]:
    """Return the pruning ratios of the scanned layers with the least loss for a given sparsity.

    Args:
        found: scan with the method "prune".
        architecture: architecture of the scanned model.
        sparsity: fraction of zeros among all weights of the scanned layers, in [0, 1).
        metric: name of the score that counts, or "" for the mean of all scores.

    Returns:
        Layer name → ratio, the `ratios` of a `PruneConfig`.

    Raises:
        ConfigError: as in `allocation.allocate`.
        UsageError: the scan has no scores yet.
    """
    costs = found.costs("prune", metric)
    weights = {name: count for name, count in weight_counts(architecture).items() if name in costs}
    return allocate(costs, weights, sparsity)

"""Figures 4 and 5: the loss of each layer, in the order of the network, sorted, and by level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from featherglue.sensitivity.pair_scores import Interval, loss_interval
from featherglue.sensitivity.results import UNCHANGED, Method, Scan
from studies.compression.styles import GRAY, NETWORKS, networks_of, short_name, style

Losses = Mapping[str, Mapping[float, Interval]]  # layer → level → loss with its interval
_NUM_SORTED, _NUM_CURVES = 16, 6
_BEFORE_GNN = 6  # rows of names below an axis


def losses(
    found: Scan, method: Method, state: str, metric: str = ""
) -> dict[str, dict[float, Interval]]:
    """Return the loss of each scored change and its bootstrap interval, in points.

    Args:
        found: scan with scores of pairs.
        method: the method.
        state: "unrefined" or "refined".
        metric: as in `loss_interval`.
    """
    base = next((row.pairs for row in found.rows if row.change == UNCHANGED), {})
    result: dict[str, dict[float, Interval]] = {}
    for row in found.rows:
        if row.change.method == method and state in row.pairs and state in base:
            interval = loss_interval(base[state], row.pairs[state], metric)
            result.setdefault(row.change.layer, {})[row.change.level] = interval
    return result


def shown_levels(found: Losses, method: Method, count: int = 3) -> list[float]:
    """Return the levels that at least half of the layers have, the strongest first."""
    numbers: dict[float, int] = {}
    for curve in found.values():
        for level in curve:
            numbers[level] = numbers.get(level, 0) + 1
    often = [level for level, number in numbers.items() if 2 * number >= max(numbers.values())]
    common = sorted(often, key=lambda level: -numbers[level])[:count]
    return sorted(common, reverse=method == "prune")


def order_figure(found: Losses, layers: Sequence[str], method: Method) -> Figure:
    """Draw the loss of every layer in the order of the network: a panel for each network.

    Args:
        found: losses; layers without scores are left out.
        layers: all layers in the order of the network.
        method: the method.
    """
    levels = shown_levels(found, method)
    networks = networks_of(list(found))
    figure = Figure(figsize=(9.0, 2.9 * len(networks)), layout="constrained")
    panels = figure.subplots(len(networks), 1, squeeze=False)[:, 0]
    for axes, network in zip(panels, networks, strict=True):
        names = [name for name in layers if name.startswith(f"{network}.")]
        for rank, level in enumerate(levels):
            _draw_level(axes, names, found, level, method, rank, len(levels))
        axes.axhline(0, color=GRAY, linewidth=0.8)
        _name_layers(axes, names)
        axes.set_xlim(-0.7, len(names) - 0.3)
        axes.set_title(f"{NETWORKS[network]}, {_number_of_layers(names, found)}", fontsize=9)
        axes.set_ylabel("loss of the mean score, points", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside upper center", ncols=len(levels))
    return figure


def _number_of_layers(names: Sequence[str], found: Losses) -> str:
    """Return "12 layers", or "7 of 12 layers" if some have no scores yet."""
    scored = sum(name in found for name in names)
    return f"{len(names)} layers" if scored == len(names) else f"{scored} of {len(names)} layers"


def _draw_level(
    axes: Axes,
    names: Sequence[str],
    found: Losses,
    level: float,
    method: Method,
    rank: int,
    count: int,
) -> None:
    at = [i for i, name in enumerate(names) if level in found.get(name, {})]
    intervals = [found[names[i]][level] for i in at]
    look = style(rank)
    shift = 0.5 * (rank - (count - 1) / 2) / count
    axes.errorbar(
        [i + shift for i in at],
        [interval.value for interval in intervals],
        yerr=_bars(intervals),
        fmt=look.marker,
        color=look.color,
        markersize=3.5,
        linewidth=0.8,
        label=level_name(level, method),
    )


def _name_layers(axes: Axes, names: Sequence[str]) -> None:
    """Name each layer of a small network; of a large one, only the first of each GNN layer."""
    if len(names) <= 20:
        axes.set_xticks(range(len(names)), [short_name(n) for n in names], rotation=30, ha="right")
        return
    first: dict[str, int] = {}
    for i, name in enumerate(names):
        parts = name.split(".")
        first.setdefault(f"gnn {parts[3]}" if parts[1] == "gnn" else parts[1], i)
    axes.set_xticks(list(first.values()), list(first), rotation=45, ha="right")
    for i in first.values():
        axes.axvline(i - 0.5, color=GRAY, linewidth=0.3)


def sorted_figure(unrefined: Losses, refined: Losses, method: Method) -> Figure:
    """Draw the most sensitive layers of each network, sorted by their loss at the strongest level.

    Args:
        unrefined: losses before the subpixel refinement of matches.
        refined: losses after it.
        method: the method.
    """
    level = shown_levels(unrefined, method)[0]
    networks = networks_of([name for name, curve in unrefined.items() if level in curve])
    figure = Figure(figsize=(4.6 * len(networks), 4.6), layout="constrained")
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        names = [n for n, c in unrefined.items() if n.startswith(f"{network}.") and level in c]
        names = sorted(names, key=lambda n: -unrefined[n][level].value)[:_NUM_SORTED][::-1]
        for rank, (state, given) in enumerate((("unrefined", unrefined), ("refined", refined))):
            intervals = [given[name][level] for name in names]
            look = style(rank)
            axes.errorbar(
                [interval.value for interval in intervals],
                [i + 0.15 * (1 - 2 * rank) for i in range(len(names))],
                xerr=_bars(intervals),
                fmt=look.marker,
                color=look.color,
                fillstyle="full" if rank == 0 else "none",
                markersize=4,
                linewidth=0.9,
                label=state,
            )
        axes.axvline(0, color=GRAY, linewidth=0.8)
        axes.set_yticks(range(len(names)), [short_name(name) for name in names], fontsize=7)
        axes.set_xlabel(
            f"loss of the mean score at {level_name(level, method)}, points", fontsize=8
        )
        axes.set_title(NETWORKS[network], fontsize=9)
        axes.tick_params(axis="x", labelsize=7)
        axes.grid(axis="x", alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside upper center", ncols=len(labels))
    return figure


def curves_figure(found: Losses, method: Method) -> Figure:
    """Draw the loss against the level for the layers with the largest losses of each network."""
    curves = {name: curve for name, curve in found.items() if len(curve) > 1}
    networks = networks_of(list(curves))
    figure = Figure(figsize=(4.6 * len(networks), 3.6), layout="constrained")
    panels = figure.subplots(1, len(networks), squeeze=False)[0]
    for axes, network in zip(panels, networks, strict=True):
        names = [name for name in curves if name.startswith(f"{network}.")]
        names = sorted(names, key=lambda n: -max(i.value for i in curves[n].values()))
        for rank, name in enumerate(names[:_NUM_CURVES]):
            _draw_curve(axes, name, curves[name], method, rank)
        axes.axhline(0, color=GRAY, linewidth=0.8)
        label = "ratio of zero weights" if method == "prune" else "bits per weight"
        axes.set_xlabel(label, fontsize=8)
        if method == "codebook":
            axes.invert_xaxis()
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(NETWORKS[network], fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    panels[0].set_ylabel("loss of the mean score, points", fontsize=8)
    return figure


def _draw_curve(
    axes: Axes, name: str, curve: Mapping[float, Interval], method: Method, rank: int
) -> None:
    points = sorted(curve.items())
    if method == "prune":
        points.insert(0, (0.0, Interval(0.0, 0.0, 0.0)))
    look = style(rank)
    axes.errorbar(
        [level for level, _ in points],
        [interval.value for _, interval in points],
        yerr=_bars([interval for _, interval in points]),
        color=look.color,
        marker=look.marker,
        linestyle=look.line,
        markersize=4,
        linewidth=1.2,
        elinewidth=0.7,
        label=short_name(name),
    )


def level_name(level: float, method: Method) -> str:
    """Return a level in words, such as "90 % zeros" or "2 bits"."""
    return f"{round(100 * level)} % zeros" if method == "prune" else f"{round(level)} bits"


def _bars(intervals: Sequence[Interval]) -> np.ndarray:
    """Return the lengths of error bars (2, N), below and above."""
    below = [max(0.0, i.value - i.low) if math.isfinite(i.low) else 0.0 for i in intervals]
    above = [max(0.0, i.high - i.value) if math.isfinite(i.high) else 0.0 for i in intervals]
    return np.array([below, above])

"""Figures of sensitivity scans and of weight distributions.

They correspond to Figures 4 to 6 of the reference study. Requires matplotlib (extra `plots`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import MissingExtraError, UsageError
from featherglue.sensitivity.results import Method, Scan, score_value

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    raise MissingExtraError("a figure", "plots") from None

Curves = Mapping[str, Mapping[float, float]]
_NUM_NAMED = 8  # curves with a color and a label, in each panel
_NETWORKS = {"extractor": "SuperPoint", "matcher": "SuperGlue"}


def draw_scan(found: Scan, method: Method, metric: str, folder: Path) -> list[Path]:
    """Draw the curves and the heat map of a scan, and return the paths of the pictures.

    Args:
        found: the scan. Without scores of the method, nothing is drawn.
        method: which scores to draw.
        metric: name of a score, or "" for the mean of all scores.
        folder: folder of the pictures.

    Raises:
        UsageError: the score does not exist.
        OutputError: a picture cannot be written.
    """
    from featherglue.evaluation.plots import save_figure

    curves = found.curves(method, metric)
    if not curves:
        return []
    level = "ratio of zero weights in the layer" if method == "prune" else "bits of a weight"
    score = metric.replace("auc", "AUC@") or "mean of the scores"
    order, base = found.order(method, metric), score_value(found.base, metric)
    figures = {
        "curves": curves_figure(curves, order, base, level, f"{score}, %"),
        "layers": costs_figure(found.costs(method, metric), order, level, score),
    }
    paths = [folder / f"{method}-{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        save_figure(figure, path)
    return paths


def curves_figure(
    curves: Curves, order: Sequence[str], base: float, level: str, score: str
) -> Figure:
    """Draw the score against the level of change: a panel for each network, a curve for each layer.

    Args:
        curves: layer name → level → score in percent. A level below 1 is a ratio; other levels
            are numbers of bits.
        order: all layers, the most sensitive first. The first layers of each network are labeled.
        base: score of the unchanged model in percent.
        level: label of the horizontal axis.
        score: label of the vertical axis.

    Raises:
        UsageError: there are no curves.
    """
    if not curves:
        raise UsageError("the scan contains no scores of this method yet")
    networks = [n for n in _NETWORKS if any(layer.startswith(f"{n}.") for layer in curves)]
    figure = Figure(figsize=(5.4 * len(networks) + 0.4, 4.4), layout="constrained")
    panels = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    bits = _are_bits(curves)
    for axes, network in zip(panels, networks, strict=True):
        layers = [layer for layer in order if layer.startswith(f"{network}.")]
        for rank, layer in reversed(list(enumerate(layers))):
            _draw_curve(axes, layer, curves[layer], base, bits, rank)
        axes.axhline(base, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"{_NETWORKS[network]}, {len(layers)} layers")
        axes.set_xlabel(level)
        if bits:
            axes.invert_xaxis()
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], fontsize=7, loc="lower left", framealpha=0.8)
    panels[0].set_ylabel(score)
    return figure


def _draw_curve(
    axes: Axes, layer: str, curve: Mapping[float, float], base: float, bits: bool, rank: int
) -> None:
    points = sorted(curve.items())
    if not bits and 0.0 not in curve:
        points.insert(0, (0.0, base))
    x, y = zip(*points, strict=True)
    if rank < _NUM_NAMED:
        label = f"{rank + 1}. {layer.partition('.')[2]}"
        axes.plot(x, y, "o-", color=f"C{rank}", markersize=3, linewidth=1.4, label=label)
    else:
        axes.plot(x, y, "-", color="0.7", linewidth=0.7, zorder=1)


def costs_figure(costs: Curves, order: Sequence[str], level: str, score: str) -> Figure:
    """Draw the loss of every layer at every level as a heat map, the most sensitive layer on top.

    Args:
        costs: layer name → level → loss of the score in percentage points.
        order: as in `curves_figure`.
        level: label of the horizontal axis.
        score: name of the score.

    Raises:
        UsageError: there are no costs.
    """
    if not costs:
        raise UsageError("the scan contains no scores of this method yet")
    levels = sorted({x for curve in costs.values() for x in curve}, reverse=_are_bits(costs))
    table = np.array([[costs[layer].get(x, np.nan) for x in levels] for layer in order])
    figure = Figure(figsize=(2.6 + 0.48 * len(levels), 1.4 + 0.17 * len(order)))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    largest = max(1.0, float(np.nanmax(np.abs(table))))
    norm = TwoSlopeNorm(0.0, -largest, largest)
    picture = axes.imshow(table, aspect="auto", cmap="RdBu_r", norm=norm, interpolation="nearest")
    axes.set_xticks(range(len(levels)), [f"{x:g}" for x in levels], fontsize=7)
    axes.set_yticks(range(len(order)), order, fontsize=6)
    axes.set_xlabel(level)
    for (i, j), value in np.ndenumerate(table):
        if not math.isnan(value):
            shade = "white" if abs(value) > 0.6 * largest else "black"
            axes.text(j, i, f"{round(value)}", ha="center", va="center", fontsize=5, color=shade)
    figure.colorbar(picture, label=f"loss of {score}, points", shrink=0.6)
    return figure


def histogram_figure(weights: Mapping[str, NDArray[Any]]) -> Figure:
    """Draw the weight distribution of each layer in a panel.

    Zeros are left out of the histogram and counted; the standard deviation σ includes them.

    Args:
        weights: layer name → weight of any shape.

    Raises:
        UsageError: there are no layers.
    """
    if not weights:
        raise UsageError("there are no layers to draw histograms of")
    columns = min(4, len(weights))
    rows = math.ceil(len(weights) / columns)
    figure = Figure(figsize=(2.6 * columns, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, (layer, weight) in zip(panels, weights.items(), strict=False):
        flat = np.asarray(weight, np.float64).reshape(-1)
        kept = flat[flat != 0]
        axes.hist(kept if len(kept) else flat, bins=80, color="C0")
        axes.set_title(layer.replace("extractor.", "").replace("matcher.", ""), fontsize=7)
        text = f"{flat.size:,} weights\nσ = {flat.std():.3g}"
        if len(kept) < flat.size:
            text += f"\n{100 * (1 - len(kept) / flat.size):.1f} % zeros"
        axes.text(0.02, 0.96, text, transform=axes.transAxes, fontsize=6, va="top")
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    for axes in panels[len(weights) :]:
        axes.set_axis_off()
    return figure


def _are_bits(curves: Curves) -> bool:
    return any(level >= 1 for curve in curves.values() for level in curve)

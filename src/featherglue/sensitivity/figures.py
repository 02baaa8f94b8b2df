"""Figures of compression: what each layer minds, and how its weights are spread.

They are the study's Figures 4 to 6, for all layers. With matplotlib (extra `plots`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import MissingExtraError, UsageError

try:
    from matplotlib.axes import Axes
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    raise MissingExtraError("a figure", "plots") from None

Curves = Mapping[str, Mapping[float, float]]
_NAMED = 8
_NETWORKS = {"extractor": "SuperPoint", "matcher": "SuperGlue"}


def curves_figure(
    curves: Curves, order: Sequence[str], base: float, level: str, score: str
) -> Figure:
    """A score against how much a layer is pruned or quantized, a curve a layer, a panel a network.

    Args:
        curves: layer → level → score; a level below 1 is a ratio, others are bits.
        order: all layers, the dearest first; the first ones of a network are named, in that order.
        base: the score of the unchanged model. level, score: what the axes say.

    Raises:
        UsageError: there are no curves.
    """
    if not curves:
        raise UsageError("there is nothing to draw yet: the scan has no scores of this kind")
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
    if rank < _NAMED:
        label = f"{rank + 1}. {layer.partition('.')[2]}"
        axes.plot(x, y, "o-", color=f"C{rank}", markersize=3, linewidth=1.4, label=label)
    else:
        axes.plot(x, y, "-", color="0.7", linewidth=0.7, zorder=1)


def costs_figure(costs: Curves, order: Sequence[str], level: str, score: str) -> Figure:
    """All layers, the dearest on top, and the points that each level costs.

    Args:
        costs: layer → level → points of the score that are lost. The rest as in `curves_figure`.

    Raises:
        UsageError: there are no costs.
    """
    if not costs:
        raise UsageError("there is nothing to draw yet: the scan has no scores of this kind")
    levels = sorted({x for curve in costs.values() for x in curve}, reverse=_are_bits(costs))
    table = np.array([[costs[layer].get(x, np.nan) for x in levels] for layer in order])
    figure = Figure(figsize=(2.6 + 0.48 * len(levels), 1.4 + 0.17 * len(order)))
    figure.set_layout_engine("constrained")
    axes = figure.add_subplot()
    most = max(1.0, float(np.nanmax(np.abs(table))))
    norm = TwoSlopeNorm(0.0, -most, most)
    picture = axes.imshow(table, aspect="auto", cmap="RdBu_r", norm=norm, interpolation="nearest")
    axes.set_xticks(range(len(levels)), [f"{x:g}" for x in levels], fontsize=7)
    axes.set_yticks(range(len(order)), order, fontsize=6)
    axes.set_xlabel(level)
    for (i, j), value in np.ndenumerate(table):
        if not math.isnan(value):
            shade = "white" if abs(value) > 0.6 * most else "black"
            axes.text(j, i, f"{round(value)}", ha="center", va="center", fontsize=5, color=shade)
    figure.colorbar(picture, label=f"points of {score} lost", shrink=0.6)
    return figure


def histogram_figure(weights: Mapping[str, NDArray[Any]]) -> Figure:
    """How the weights of layers are spread, a panel a layer; zeros are counted apart.

    Args:
        weights: by layer, any shape.

    Raises:
        UsageError: there are none.
    """
    if not weights:
        raise UsageError("no layers to draw histograms of")
    columns = min(4, len(weights))
    rows = math.ceil(len(weights) / columns)
    figure = Figure(figsize=(2.6 * columns, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, (layer, weight) in zip(panels, weights.items(), strict=False):
        flat = np.asarray(weight, np.float64).reshape(-1)
        kept = flat[flat != 0]
        axes.hist(kept if len(kept) else flat, bins=80, color="C0")
        axes.set_title(layer.replace("extractor.", "").replace("matcher.", ""), fontsize=7)
        said = f"{flat.size:,} weights\nσ = {flat.std():.3g}"
        if len(kept) < flat.size:
            said += f"\n{100 * (1 - len(kept) / flat.size):.1f} % zeros"
        axes.text(0.02, 0.96, said, transform=axes.transAxes, fontsize=6, va="top")
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    for axes in panels[len(weights) :]:
        axes.set_axis_off()
    return figure


def _are_bits(curves: Curves) -> bool:
    return any(level >= 1 for curve in curves.values() for level in curve)

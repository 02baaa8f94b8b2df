"""The figures of the page docs/compression.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from featherglue.evaluation.plots import save_figure
from featherglue.models.model import Model
from featherglue.sensitivity.figures import costs_figure, curves_figure, histogram_figure
from featherglue.sensitivity.results import Method, Scan, score_value

Row = Mapping[str, Any]
SIZE_CAPTION = "AUC@5 against size on disk; hollow markers: before fine-tuning"
WEIGHTS_CAPTION = "Figure 6: weight distributions of the dense model"
# Number of the figure, compression method, and label of the horizontal axis.
_METHODS: Mapping[Method, tuple[str, str, str]] = {
    "prune": ("4", "pruning", "ratio of zero weights in the layer"),
    "codebook": ("5", "k-means quantization", "bits of a weight"),
}


def scan_captions(number: str, change: str, pairs: Any, refined: bool) -> tuple[str, str]:
    """Return the captions of the curves and of the heat map of a scan."""
    settings = f"{pairs} pairs, {'refined' if refined else 'not refined'}; gains are noise"
    return (
        f"Figure {number}: sensitivity of each layer to {change}, the most sensitive labeled; "
        f"{settings}",
        f"Figure {number}, all layers: loss of the mean score in points; {settings}",
    )


def draw(
    rows: Sequence[Row], found: Scan | None, dense: Model, layers: Sequence[str], folder: Path
) -> dict[str, str]:
    """Draw the figures and return caption → path relative to the parent of `folder`.

    Args:
        rows: rows of the results.
        found: sensitivity scan, or None.
        dense: the dense model.
        layers: layers whose weight distributions are drawn.
        folder: folder of the pictures.
    """
    figures: dict[str, tuple[str, Figure]] = {"size": (SIZE_CAPTION, _size_figure(rows))}
    for method, (number, change, level) in _METHODS.items():
        if found is None or not found.curves(method):
            continue
        order, base = found.order(method), score_value(found.base, "")
        curves, costs = found.curves(method), found.costs(method)
        scoring = found.settings.get("score", {})
        pairs, refined = scoring.get("num_pairs", "?"), bool(scoring.get("refine"))
        captions = scan_captions(number, change, pairs, refined)
        figures[f"figure-{number}"] = (
            captions[0],
            curves_figure(curves, order, base, level, "mean of AUC, precision and recall, %"),
        )
        figures[f"figure-{number}-layers"] = (
            captions[1],
            costs_figure(costs, order, level, "the mean score"),
        )
    arrays = dense.to_artifact().arrays
    weights = {name: arrays[f"{name}.weight"] for name in layers}
    figures["figure-6"] = WEIGHTS_CAPTION, histogram_figure(weights)
    pictures = {}
    for name, (caption, figure) in figures.items():
        save_figure(figure, folder / f"compression-{name}.png")
        pictures[caption] = f"{folder.name}/compression-{name}.png"
    return pictures


def _size_figure(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        mib, color = row["bytes_on_disk"] / 2**20, f"C{i % 10}"
        marker = "os^"[i // 10]
        axes.plot([mib], [row["before"]["auc"]["5"]], marker, color=color, fillstyle="none")
        if row["after"] is not None:
            axes.plot([mib], [row["after"]["auc"]["5"]], marker, color=color, label=row["title"])
        else:
            axes.plot([], [], marker, color=color, fillstyle="none", label=row["title"])
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("on disk, MiB")
    axes.set_ylabel("AUC@5, %")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    return figure

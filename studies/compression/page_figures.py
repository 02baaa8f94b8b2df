"""Drawing of the figures of the page docs/compression.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.layers import layers
from featherglue.evaluation.plots import save_figure
from featherglue.models.model import Model
from featherglue.sensitivity.results import Method, Scan
from studies.compression.grid_figure import grid_figure, variance_figure
from studies.compression.layer_figures import curves_figure, losses, order_figure, sorted_figure
from studies.compression.speed_figure import speed_figure
from studies.compression.styles import style

Row = Mapping[str, Any]
_METHODS: Mapping[Method, str] = {"prune": "4", "codebook": "5"}  # numbers of the figures


def draw(
    results: Row, found: Scan | None, original: Model, dense: Model, folder: Path
) -> dict[str, str]:
    """Draw the figures and return name → path relative to the parent of `folder`.

    Args:
        results: content of results.json.
        found: sensitivity scan, or None.
        original: the dense model as trained.
        dense: the dense model with folded batch normalization.
        folder: folder of the pictures.
    """
    figures: dict[str, Figure | None] = {"size": _size_figure(results["rows"])}
    if results["speed"]:
        figures["figure-3"] = speed_figure(results["speed"])
    if found is not None:
        figures |= _scan_figures(found, dense)
    source = original.to_artifact()
    folded = fold_batch_norm(source)
    weights = results["weights"]
    figures["figure-6"] = grid_figure(source, folded, weights["chosen"])
    figures["figure-6-variances"] = variance_figure(source, weights["variances"])
    pictures = {}
    for name, figure in figures.items():
        if figure is not None:
            save_figure(figure, folder / f"compression-{name}.png")
            pictures[name] = f"{folder.name}/compression-{name}.png"
    return pictures


def _scan_figures(found: Scan, dense: Model) -> dict[str, Figure | None]:
    names = [layer.name for layer in layers(dense.architecture)]
    figures: dict[str, Figure | None] = {}
    for method, number in _METHODS.items():
        unrefined = losses(found, method, "unrefined")
        if not unrefined:
            continue
        figures[f"figure-{number}"] = order_figure(unrefined, names, method)
        refined = losses(found, method, "refined")
        figures[f"figure-{number}-sorted"] = sorted_figure(unrefined, refined, method)
        if any(len(curve) > 1 for curve in unrefined.values()):
            figures[f"figure-{number}-curves"] = curves_figure(unrefined, method)
    return figures


def _size_figure(rows: Sequence[Row]) -> Figure:
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        look, mib = style(i), row["bytes_on_disk"] / 2**20
        last = row["before"] if row["after"] is None else row["after"]
        before, after = row["before"]["auc"]["5"], last["auc"]["5"]
        axes.plot([mib, mib], [before, after], color=look.color, linewidth=0.7)
        axes.plot([mib], [before], look.marker, color=look.color, fillstyle="none")
        fill = "full" if row["after"] is not None else "none"
        # The styles repeat after eight rows; the later ones have larger markers.
        size = 6 if i < 8 else 9
        axes.plot(
            [mib],
            [after],
            look.marker,
            color=look.color,
            fillstyle=fill,
            markersize=size,
            label=row["title"],
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("on disk, MiB")
    axes.set_ylabel("AUC@5, %")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize=7, loc="outside right upper")
    return figure

"""Figure 3: latency against the number of keypoints, SuperPoint and SuperGlue apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from studies.compression.styles import GRAY, style

_PARTS = {
    "extractor": "SuperPoint (SIFT, XFeat), ms",
    "matcher": "SuperGlue (nearest neighbors), ms",
}
_RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_PEERS = {"SIFT": ("-", "x"), "XFeat": (":", "+")}


def speed_figure(measured: Mapping[str, Any]) -> Figure:
    """Draw a column for each runtime, and a row for each network. SIFT and XFeat are gray lines.

    Args:
        measured: result of `speed.measure_speed`.
    """
    rows = measured["rows"]
    runtimes = [name for name in _RUNTIMES if any(row["runtime"] == name for row in rows)]
    models = list(dict.fromkeys(row["label"] for row in rows if row["label"] not in _PEERS))
    figure = Figure(figsize=(3.3 * len(runtimes) + 0.4, 6.0), layout="constrained")
    panels = figure.subplots(2, len(runtimes), sharex=True, sharey="row", squeeze=False)
    for i, (part, label) in enumerate(_PARTS.items()):
        for j, runtime in enumerate(runtimes):
            axes = panels[i, j]
            _draw(axes, rows, models, part, runtime, measured["keypoints"])
            _scale(axes, measured["keypoints"])
            if i == 0:
                axes.set_title(_RUNTIMES[runtime], fontsize=9)
            else:
                axes.set_xlabel("keypoints of an image", fontsize=8)
        panels[i, 0].set_ylabel(label, fontsize=8)
    handles, labels = panels[1, 0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside lower center", ncols=len(labels))
    return figure


def _draw(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    models: Sequence[str],
    part: str,
    runtime: str,
    counts: Sequence[int],
) -> None:
    for row in rows:
        if row["part"] != part:
            continue
        points = sorted((int(count), ms) for count, ms in row["ms"].items())
        if not points:
            continue
        if len(points) == 1:  # the time does not depend on the number of keypoints
            points = [(count, points[0][1]) for count in counts]
        x, y = zip(*points, strict=True)
        if row["label"] in _PEERS:
            line, marker = _PEERS[row["label"]]
            axes.plot(x, y, linestyle=line, marker=marker, color=GRAY, label=row["label"])
        elif row["runtime"] == runtime:
            look = style(models.index(row["label"]))
            axes.plot(
                x,
                y,
                linestyle=look.line,
                marker=look.marker,
                markersize=4,
                color=look.color,
                label=row["label"],
            )


def _scale(axes: Axes, counts: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(list(counts), [str(count) for count in counts])
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3, which="both", linewidth=0.4)

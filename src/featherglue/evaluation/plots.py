"""Figures of results, with matplotlib (extra `plots`)."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from featherglue.errors import MissingExtraError, OutputError
from featherglue.io.files import atomic_write

try:
    import matplotlib
    from matplotlib.figure import Figure
except ModuleNotFoundError:
    raise MissingExtraError("a plot", "plots") from None

_FORMATS = (".png", ".svg", ".pdf", ".jpg")


def check_format(path: Path) -> None:
    """Raise OutputError unless the suffix is that of a picture."""
    if path.suffix not in _FORMATS:
        raise OutputError(f"{path}: pictures end in {', '.join(_FORMATS)}")


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure; the suffix chooses the format.

    Raises:
        OutputError: an unknown suffix, or the file cannot be written.
    """
    path = Path(path)
    check_format(path)
    with atomic_write(path) as file:
        figure.savefig(file, format=path.suffix[1:], dpi=160)


def figure_svg(figure: Figure) -> str:
    """A figure as an SVG element whose text stays text."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "featherglue"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def latency_figure(measured: Mapping[str, Any]) -> Figure:
    """Draw the median end-to-end latency over the maximum number of keypoints, a line per label.

    Args:
        measured: JSON values of a benchmark, see `BenchmarkResult.to_dict`. Only the rows of its
            first image size are drawn.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    size = measured["image_size"]
    of_size = [row for row in measured["rows"] if row.get("image_size", size) == size]
    for label in dict.fromkeys(row["label"] for row in of_size):
        rows = [row for row in of_size if row["label"] == label]
        counts = [row["max_keypoints"] for row in rows]
        times = [row["end_to_end"]["median_ms"] for row in rows]
        axes.plot(counts, times, "o-", label=_text(label))
    axes.set_xlabel("keypoints")
    axes.set_ylabel(f"a frame of {size[0]}×{size[1]} and its matches, ms")
    axes.set_xscale("log", base=2)
    counts = sorted({row["max_keypoints"] for row in measured["rows"] if row["max_keypoints"] > 0})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


def plot_latency(measured: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write `latency_figure` to a file.

    Raises:
        OutputError: an unknown suffix, or the file cannot be written.
    """
    save_figure(latency_figure(measured), path)


def recall_figure(evaluations: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the percentage of pairs with at most an error, one curve per model.

    Args:
        evaluations: JSON values of evaluations on one suite, see `Evaluation.to_dict`. The error
            axis ends at the largest AUC threshold, in px, or degrees for poses.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    largest = max(float(threshold) for threshold in evaluations[0]["auc"])
    for evaluation in evaluations:
        errors = sorted(row["error"] for row in evaluation["results"] if row["error"] is not None)
        total = len(evaluation["results"])
        percentages = [100 * i / total for i in range(len(errors) + 1)]
        axes.step([0, *errors], percentages, where="post", label=_text(evaluation["model"]["name"]))
    unit = "degrees" if evaluations[0]["suite"] == "pose" else "px"
    axes.set_xlim(0, largest)
    axes.set_ylim(0, 100)
    axes.set_xlabel(f"error, {unit}")
    axes.set_ylabel("pairs, %")
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, loc="outside right upper")
    return figure


def trade_figure(
    evaluations: Sequence[Mapping[str, Any]],
    facts: Mapping[str, Mapping[str, float]],
    key: str,
    label: str,
) -> Figure:
    """Draw the AUC at the smallest threshold over a cost, one point per model.

    Args:
        evaluations: JSON values of evaluations on one suite, see `Evaluation.to_dict`.
        facts: costs of each model, by the name of the model.
        key: the cost to draw, a key of `facts[name]`.
        label: label of its axis, with the unit.
    """
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    threshold = min(evaluations[0]["auc"], key=float)
    for evaluation in evaluations:
        name = str(evaluation["model"]["name"])
        x, y = facts[name][key], evaluation["auc"].get(threshold)
        if y is not None:
            axes.plot([x], [y], "o", label=_text(name))
    axes.set_xlabel(label)
    axes.set_ylabel(f"AUC@{threshold}, %")
    axes.margins(0.15)
    axes.set_xlim(left=0)
    figure.legend(frameon=False, loc="outside right upper")
    axes.grid(alpha=0.3)
    return figure


def _text(name: object) -> str:
    """A name as a label: matplotlib reads "$" as mathematics and hides a leading underscore."""
    return " " * str(name).startswith("_") + str(name).replace("$", r"\$")

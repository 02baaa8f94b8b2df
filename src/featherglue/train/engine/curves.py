"""The curves of a run as one picture, drawn from its logs with matplotlib (extra `plots`)."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import MissingExtraError
from featherglue.io.files import atomic_write
from featherglue.train.engine.log_files import CURVES, LOG, VALIDATION_LOG, read_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[dict[str, float]]
Panel = tuple[str, str, Rows, list[str]]  # title, unit of the y axis, rows, columns
# Logged metrics in [0, 1]; the other columns are losses.
_RATIOS = ("precision", "recall", "matched", "true")
_MIN_ROWS_TO_SMOOTH = 20


def draw_curves(folder: str | os.PathLike[str]) -> Path | None:
    """Draw the logs of a run to `folder/curves.png`.

    Args:
        folder: folder of the run with log.csv and, after a validation, validation.csv.

    Returns:
        The path of the picture; None with fewer than two rows to draw.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the picture cannot be written.
    """
    folder = Path(folder)
    log, validation = read_rows(folder / LOG), read_rows(folder / VALIDATION_LOG)
    if max(len(log), len(validation)) < 2:
        return None
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise MissingExtraError(CURVES, "plots") from None
    panels = _panels(log, validation)
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(6.0 * columns, 3.6 * rows), layout="constrained")
    for i, panel in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, i + 1), *panel)
    with atomic_write(folder / CURVES) as file:
        figure.savefig(file, format="png", dpi=110)
    return folder / CURVES


def smooth(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Moving average, (N,) -> (N,). The window is shorter at both ends.

    Args:
        width: size of the window, an odd number.
    """
    sums = np.cumsum(np.r_[0.0, values])
    index = np.arange(len(values))
    first = np.maximum(index - width // 2, 0)
    last = np.minimum(index + width // 2 + 1, len(values))
    return np.asarray((sums[last] - sums[first]) / (last - first))


def _panels(log: Rows, validation: Rows) -> list[Panel]:
    """The panels that have columns: losses, ratios, and the results of validation."""
    columns = [key for key in log[-1] if key not in ("step", "seconds")] if log else []
    # `score` repeats one of the AUC columns.
    measured = [key for key in validation[-1] if key not in ("step", "score")] if validation else []
    auc_columns = [key for key in measured if key.startswith("auc")]
    panels: list[Panel] = [
        ("training", "loss", log, [key for key in columns if key not in _RATIOS]),
        ("training", "ratio", log, [key for key in columns if key in _RATIOS]),
        ("validation", "AUC, %", validation, auc_columns),
        ("validation", "ratio", validation, [key for key in measured if key not in auc_columns]),
    ]
    return [panel for panel in panels if panel[3]]


def _draw(axes: Axes, title: str, unit: str, rows: Rows, columns: list[str]) -> None:
    for index, column in enumerate(columns):
        present = [row for row in rows if column in row]
        steps = np.array([row["step"] for row in present])
        values = np.array([row[column] for row in present])
        color = f"C{index}"
        if len(values) < _MIN_ROWS_TO_SMOOTH:
            axes.plot(steps, values, "o-", markersize=3, color=color, label=column)
            continue
        axes.plot(steps, values, linewidth=0.6, alpha=0.3, color=color)
        smoothed = smooth(values, 2 * (len(values) // 40) + 3)
        axes.plot(steps, smoothed, linewidth=1.6, color=color, label=column)
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    if unit == "loss" and all(row[c] > 0 for row in rows for c in columns if c in row):
        axes.set_yscale("log")
    elif unit != "loss":
        axes.set_ylim(0, 100 if "%" in unit else 1)
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=8, frameon=False)

"""Figure 6: distributions of weights with the grid of linear quantization drawn into them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from featherglue.artifact.format import Artifact
from studies.compression.styles import BLACK, GRAY, short_name, style
from studies.compression.weight_errors import (
    Array,
    channel_ranges,
    quantized,
    relative_error,
    unfolded_weights,
)

_BITS = 4  # few enough steps to be drawn
_ROLES = {
    "folded": "fails after folding",
    "unnormalized": "fails without folding",
    "works": "works",
}


def grid_figure(original: Artifact, folded: Artifact, chosen: Mapping[str, str]) -> Figure:
    """Draw a row for each chosen layer.

    The columns are the weights on the grid of the tensor, the weights in steps of the grid of
    their channel, and the range of each channel.

    Args:
        original: the model as trained.
        folded: the model with folded batch normalization.
        chosen: role → layer; see `weight_errors.chosen_layers`.
    """
    figure = Figure(figsize=(9.6, 2.5 * len(chosen)), layout="constrained")
    panels = figure.subplots(len(chosen), 3, squeeze=False)
    unfolded = unfolded_weights(original, folded)
    for row, (role, layer) in zip(panels, chosen.items(), strict=True):
        before, after = unfolded[layer], folded.arrays[f"{layer}.weight"]
        _draw_tensor_grid(row[0], before, after)
        _draw_channel_grid(row[1], after)
        _draw_ranges(row[2], before, after)
        row[0].set_ylabel(f"{short_name(layer)}\n({_ROLES[role]})\nweights", fontsize=7)
        for axes in row:
            axes.tick_params(labelsize=6)
    return figure


def _draw_tensor_grid(axes: Axes, before: Array, weight: Array) -> None:
    code = quantized(weight, _BITS, per_channel=False)
    step = float(code.scale[0])
    _draw_histogram(axes, weight.reshape(-1), step)
    zeros = 100 * float(np.mean(code.codes == 0))
    _title(axes, "one grid per tensor", weight, zeros, per_channel=False)
    label = "weight"
    if not np.array_equal(before, weight):
        label += (
            f" (8 bits before folding: error {relative_error(before, 8, per_channel=False):.1f} %)"
        )
    axes.set_xlabel(label, fontsize=7)


def _draw_channel_grid(axes: Axes, weight: Array) -> None:
    code = quantized(weight, _BITS, per_channel=True)
    shape = (-1, *[1] * (weight.ndim - 1))
    _draw_histogram(axes, (weight / code.scale.reshape(shape)).reshape(-1), 1.0)
    zeros = 100 * float(np.mean(code.codes == 0))
    _title(axes, "one grid per channel", weight, zeros, per_channel=True)
    axes.set_xlabel("weight, in steps of its channel", fontsize=7)


def _title(axes: Axes, name: str, weight: Array, zeros: float, *, per_channel: bool) -> None:
    errors = [relative_error(weight, bits, per_channel=per_channel) for bits in (8, _BITS)]
    text = (
        f"{name}: error {errors[0]:.1f} % in 8 bits,\n{errors[1]:.0f} % in {_BITS} bits, "
        f"which round {zeros:.0f} % to 0"
    )
    axes.set_title(text, fontsize=7)


def _draw_histogram(axes: Axes, values: Array, step: float) -> None:
    """Draw a histogram with logarithmic counts, and the grid lines of 2^bits − 1 values."""
    half = 2 ** (_BITS - 1) - 1
    edges = np.linspace(-(half + 0.5) * step, (half + 0.5) * step, 30 * half + 1)
    counts = np.histogram(values, edges)[0]
    axes.stairs(counts, edges, fill=True, color=style(5).color)
    for i in range(-half, half + 1):
        axes.axvline(i * step, color=style(1).color, linewidth=0.8, linestyle="--")
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_ranges(axes: Axes, before: Array, after: Array) -> None:
    for i, (name, weight) in enumerate((("before folding", before), ("after folding", after))):
        if i and np.array_equal(before, after):
            continue
        look, ranges = style(2 * i), channel_ranges(weight)
        label = "no normalization" if np.array_equal(before, after) else name
        axes.plot(ranges, linestyle=look.line, color=look.color, label=label)
    for bits, line in ((8, ":"), (_BITS, "--")):
        step = float(quantized(after, bits, per_channel=False).scale[0])
        axes.axhline(
            step / 2, color=BLACK if bits == _BITS else GRAY, linestyle=line, linewidth=0.9
        )
        axes.text(0, step / 2, f"half a step, {bits} bits", fontsize=6, va="bottom")
    axes.set_yscale("log")
    axes.set_xlabel("output channels, sorted", fontsize=7)
    axes.set_title("largest weight of each channel", fontsize=7)
    axes.legend(fontsize=6, loc="lower right")


def variance_figure(original: Artifact, rows: list[dict[str, Any]]) -> Figure | None:
    """Draw the variances of the normalization with the most rounding to zero, or return None."""
    if not rows:
        return None
    name = rows[0]["norm"]
    values = np.sort(original.arrays[f"{name}.running_var"].astype(np.float32))
    code = quantized(values[:, None], 8, per_channel=False)
    rounded = code.decode()[:, 0]
    figure = Figure(figsize=(4.8, 3.0), layout="constrained")
    axes = figure.add_subplot()
    look, other = style(0), style(1)
    axes.plot(values, look.marker, color=look.color, markersize=3, label="variance")
    floor = float(values.min()) / 3
    axes.plot(
        np.where(rounded > 0, rounded, floor),
        other.marker,
        color=other.color,
        markersize=4,
        fillstyle="none",
        label="in 8 bits, one scale (0 is drawn at the bottom)",
    )
    axes.axhline(float(code.scale[0]) / 2, color=GRAY, linestyle="--", linewidth=0.9)
    axes.text(len(values) / 3, float(code.scale[0]) / 2, "half a step", fontsize=7, va="bottom")
    axes.set_yscale("log")
    axes.set_xlabel(f"channels of {short_name(name)}, sorted", fontsize=8)
    axes.set_ylabel("variance", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.legend(fontsize=7, loc="lower right")
    return figure

"""Rounding errors of weights and of the statistics of normalization, for Figure 6 and the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import LinearTensor
from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import layers
from featherglue.compression.quantization.ranges import quantize_weight

Array = NDArray[np.float32]


def quantized(weight: Array, bits: int, *, per_channel: bool) -> LinearTensor:
    """Return the codes of a weight (out, …) on a symmetric grid that covers every value."""
    groups = len(weight) if per_channel else 1
    return quantize_weight(weight, bits, groups, "symmetric", "minmax", 100.0)


def relative_error(weight: Array, bits: int, *, per_channel: bool) -> float:
    """Return the root mean square of the rounding error over that of the weights, in percent."""
    error = quantized(weight, bits, per_channel=per_channel).decode() - weight
    power = max(float(np.mean(np.square(weight, dtype=np.float64))), 1e-30)
    return 100 * float(np.sqrt(np.mean(np.square(error, dtype=np.float64)) / power))


def unfolded_weights(original: Artifact, folded: Artifact) -> dict[str, Array]:
    """Return the weight before folding of each layer, by its name after folding.

    Folding removes the normalization from the numbers of the layers of an MLP.
    """
    pairs = zip(layers(original.architecture), layers(folded.architecture), strict=True)
    return {after.name: original.arrays[f"{before.name}.weight"] for before, after in pairs}


def layer_errors(original: Artifact, folded: Artifact) -> list[dict[str, Any]]:
    """Return a row for each layer, the largest error with one scale per tensor first.

    Args:
        original: the model as trained.
        folded: the same model with folded batch normalization.

    Returns:
        Rows with `layer`, `normalized` (whether batch normalization followed the layer), and the
        relative errors in percent: `unfolded8` (before folding, one scale per tensor, 8 bits),
        `tensor8`, `tensor4`, `channel8` and `channel4` (after folding).
    """
    rows = []
    for name, before in unfolded_weights(original, folded).items():
        after = folded.arrays[f"{name}.weight"]
        row: dict[str, Any] = {"layer": name, "normalized": not np.array_equal(before, after)}
        row["unfolded8"] = relative_error(before, 8, per_channel=False)
        for bits in (8, 4):
            row[f"tensor{bits}"] = relative_error(after, bits, per_channel=False)
            row[f"channel{bits}"] = relative_error(after, bits, per_channel=True)
        rows.append({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})
    return sorted(rows, key=lambda row: -row["tensor8"])


def variance_errors(original: Artifact) -> list[dict[str, Any]]:
    """Return what 8 bits with one scale do to the variances of each batch normalization.

    Returns:
        Rows with `norm`, `smallest` and `largest` variance, and `zeros`, the percentage of the
        variances that are rounded to 0; the largest percentage first. Empty without normalization.
    """
    rows = []
    for layer in layers(original.architecture):
        if not layer.norm:
            continue
        values = original.arrays[f"{layer.norm}.running_var"].astype(np.float32)
        rounded = quantized(values[:, None], 8, per_channel=False).decode()[:, 0]
        rows.append(
            {
                "norm": layer.norm,
                "smallest": float(values.min()),
                "largest": float(values.max()),
                "zeros": 100 * float(np.mean(rounded == 0)),
            }
        )
    return sorted(rows, key=lambda row: -row["zeros"])


def chosen_layers(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Return the layers of Figure 6 by role: what fails, and what works, with one scale.

    "folded" has the largest error of the layers with normalization, "unnormalized" that of the
    inner layers without it, and "works" the smallest error of all.
    """
    inner = [row for row in rows if "final_proj" not in row["layer"]]
    found: dict[str, str] = {}
    for role, normalized in (("folded", True), ("unnormalized", False)):
        names = [row["layer"] for row in inner if row["normalized"] is normalized]
        if names:
            found[role] = names[0]
    return found | {"works": rows[-1]["layer"]}


def channel_ranges(weight: Array) -> Array:
    """Return the largest absolute weight of each output channel, in ascending order."""
    return np.sort(np.abs(weight.reshape(len(weight), -1)).max(1))


def summary(original: Artifact, folded: Artifact) -> Mapping[str, Any]:
    """Return the content of `weights` in results.json."""
    rows = layer_errors(original, folded)
    return {"layers": rows, "chosen": chosen_layers(rows), "variances": variance_errors(original)}

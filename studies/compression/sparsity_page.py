"""The section on sparsity of docs/compression.md; see `sparsity`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from featherglue.io.tables import format_table
from featherglue.runtime.sparse_ import MIN_ZEROS
from studies.compression.page_tables import where

Row = Mapping[str, Any]

_FRAME_PARTS = ("frames-1", "frames-2")
_NAMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "torch csr": "PyTorch CSR (MKL)",
    "sparse": "`sparse`",
    "native": "`native`",
}
_FRAMES = (
    "A frame is {width}×{height} with 512 keypoints: extract it, and match it with the previous "
    "frame. All sessions ran in turn, so the times of this table belong together, but not with "
    "those of Table 2b. With one thread they are CPU times, with two elapsed times. Each number is "
    "a median, so the parts do not add up exactly; times of the same work differ by up to 15 %. "
    "AUC@5 is that of {pairs} random pairs, with the 1024 keypoints of the model; on so few pairs, "
    "differences of a point or two are chance. 2:4 means two zeros in four weights of a row, 4×1 "
    "and 1×8 blocks of 4 output channels and of 8 inputs that are zero or not as a whole."
)
_TUNED = (
    "Only the models that say so are fine-tuned. Tables 1a and 1b have their accuracy on all "
    "pairs: the pruned one is *pruned + k-means 4 bits + Huffman* there, with its weights decoded "
    "here."
)
_PATTERNS = {"": "single weights", "2:4": "2 of 4", "4x1": "blocks of 4×1", "1x8": "blocks of 1×8"}
_PATTERN_TEXT = (
    "Zeros in blocks are easier to skip, but a block is removed as a whole, with any large weights "
    "in it. The table compares patterns at equal ratios, without fine-tuning, on {pairs} pairs. "
    "On so few pairs, differences of AUC@5 are chance; recall shows what a pattern costs."
)
_LAYERS = (
    "Milliseconds of one layer with one thread, CPU time. ONNX Runtime and OpenVINO multiply by "
    "zeros: their times differ by at most {spread:.0f} % from layer to layer of one shape, because "
    "other programs shared the cache. {csr}The sparse kernel multiplies each weight that is not "
    "zero by 32 keypoints or 64 pixels at once."
)
_CSR = (
    "A library for sparse matrices does not gain. *CSR* (compressed sparse rows) stores the "
    "weights of each row that are not zero, with their columns; at 89 % zeros, its product takes "
    "{low:.1f} to {high:.1f} times as long as the dense product of ONNX Runtime. "
)
_ROOFLINE = (
    "With AVX2, one core computes at most {gflops:.0f} GFLOP/s (a loop of multiply–adds). It reads "
    "and writes {gbytes:.1f} GB/s beyond its caches (a triad of streams). The table counts only "
    "products with weights that are not zero. *Roof* is the smaller of the peak and the intensity "
    "times the bandwidth."
)
_LIMITS = (
    "{roofs} At 89 % zeros the sparse kernel reaches {single:.0f} GFLOP/s on average, {tall:.0f} "
    "with blocks of 4×1, and {wide:.0f} with blocks of 1×8; the dense products of ONNX Runtime "
    "reach {dense:.0f}. A weight that is not zero must be loaded with its position, and its inputs "
    "are used once for it, while a dense product keeps a tile of weights in registers for many "
    "inputs. So {fewer:.0f} times fewer products are only {gain_low:.1f} to {gain_high:.1f} times "
    "as fast.\n\n"
    "For 3×3 layers the runtime `native` uses Winograd's algorithm, which needs a quarter of the "
    "products, but fills in the zeros. The runtime `sparse` therefore leaves the zeros of an "
    "extractor out only from {extractor:.0f} % on, those of a matcher from {matcher:.0f} % on; "
    "with fewer, the network runs in `native`. Products of attention have no weights: they remain "
    "whatever is pruned."
)


def section(results: Mapping[str, Any]) -> str:
    """Return the section as Markdown.

    Args:
        results: result of `sparsity.measure_sparsity`.
    """
    parts = ["## What sparsity gains on an ordinary processor\n", *_frames(results)]
    parts += _patterns(results["accuracy"])
    if results["layers"]["rows"]:
        parts += _layers(results["layers"], results["limits"])
    return "\n".join(parts)


def _frames(results: Mapping[str, Any]) -> list[str]:
    rows = [row for part in _FRAME_PARTS for row in results[part]["rows"]]
    counts = sorted({row["threads"] for row in rows})
    accuracy = results["accuracy"]
    lines = []
    for row in rows:
        if row["threads"] != 1:
            continue
        both = {other["threads"]: other for other in rows if _key(other) == _key(row)}
        auc = accuracy["models"][row["model"]]["auc5"]
        times = [
            f"{each['ms']:.0f} ({each['extract']:.0f} + {each['match']:.0f})"
            for each in (both[count] for count in counts)
        ]
        zeros = " / ".join(f"{100 * value:.0f}" for value in row["zeros"].values())
        lines.append([row["model"], zeros, _NAMES[row["runtime"]], *times, f"{auc:.1f}"])
    columns = [f"ms, {count} thread{'s' * (count > 1)}" for count in counts]
    head = ["model", "zeros, %", "runtime", *columns, "AUC@5"]
    width, height = results[_FRAME_PARTS[0]]["size"]
    text = _FRAMES.format(width=width, height=height, pairs=accuracy["pairs"])
    if _pruned(rows) is not None:
        text += f" {_TUNED}"
    return [
        _summary(rows),
        text + "\n",
        format_table(head, lines),
        "\nIn parentheses: extraction and match. Zeros: SuperPoint / SuperGlue. The runtime "
        "`sparse` runs a network with few zeros in `native`, such as the extractor of all these "
        "models.\n",
        *(_origin(results[part]) for part in _FRAME_PARTS),
    ]


def _patterns(accuracy: Mapping[str, Any]) -> list[str]:
    """Compare the patterns of zeros at equal ratios, without fine-tuning."""
    models = accuracy["models"]
    found = [(_PATTERNS[row["pattern"]], 100 * row["ratio"], row) for row in accuracy["ratios"]]
    for title, scores in models.items():
        if title == "SuperGlue 2:4":
            found.append((_PATTERNS["2:4"], 50.0, scores))
        elif title.startswith("SuperGlue 89 %"):
            pattern = title.partition(", ")[2].replace("×", "x")
            found.append((_PATTERNS[pattern], 89.0, scores))
    order = list(_PATTERNS.values())
    found.sort(key=lambda row: (row[1], order.index(row[0])))
    lines = [["dense", "0", *_scores(models["dense"])]]
    lines += [[pattern, f"{zeros:.0f}", *_scores(scores)] for pattern, zeros, scores in found]
    return [
        "### Patterns of zeros\n",
        _PATTERN_TEXT.format(pairs=accuracy["pairs"]) + "\n",
        format_table(["zeros of SuperGlue", "%", "AUC@5", "precision", "recall"], lines),
        "\n" + _origin(accuracy),
    ]


def _scores(scores: Row) -> list[str]:
    return [f"{scores[name]:.1f}" for name in ("auc5", "precision", "recall")]


def _summary(rows: Sequence[Row]) -> str:
    """State the gain of the fine-tuned pruned model over dense runtimes and structured pruning."""
    gains = []
    for threads in sorted({row["threads"] for row in rows}):
        gains += _gains([row for row in rows if row["threads"] == threads], threads)
    gains += ["Table 1a has what each of them loses."] if gains else []
    texts = [
        "Other runtimes treat zeros as numbers, so pruning single weights makes a file smaller "
        "but no frame faster. The runtimes [`native`](how-to/runtimes.md) and "
        "[`sparse`](how-to/runtimes.md#pruned-models) are featherglue's own: `native` computes "
        "with all weights, `sparse` leaves the zeros out.",
        *gains,
        f"A matcher needs {100 * MIN_ZEROS['matcher']:.0f} % zeros, and an extractor "
        f"{100 * MIN_ZEROS['extractor']:.0f} %, to gain: the zeros of 2:4, 50 %, are too few.",
        "After channels are removed, the products are still dense, and removed heads and layers "
        "take their attention with them. Prune single weights for a small file; remove channels, "
        "heads and layers for speed.",
    ]
    return " ".join(texts) + "\n"


def _gains(rows: Sequence[Row], threads: int) -> list[str]:
    """Compare the models that are stored, with one number of threads."""
    times = {_key(row): row["ms"] for row in rows}
    pruned = _pruned(rows)
    if pruned is None:
        return []
    sparse = times[pruned, "sparse"]
    best = min(times[pruned, name] for name in ("onnxruntime", "openvino"))
    text = (
        f"With {threads} thread{'s' * (threads > 1)} `sparse` takes {sparse:.0f} ms for a frame "
        f"of the fine-tuned pruned model: {best / sparse:.1f} times as fast as the better of ONNX "
        f"Runtime and OpenVINO, and {times[pruned, 'native'] / sparse:.1f} times as fast as "
        "`native`"
    )
    for name in dict.fromkeys(row["model"] for row in rows):
        if name.startswith("structured"):
            kept = name.removeprefix("structured, ").partition(" %")[0]
            fast = min(ms for (model, _), ms in times.items() if model == name)
            text += (
                f"; the model with {kept} % of the operations takes {fast:.0f} ms in its fastest "
                f"runtime, {sparse / fast:.1f} times as fast"
            )
    return [f"{text}."]


def _pruned(rows: Sequence[Row]) -> str | None:
    """The title of the fine-tuned pruned model; None if it was not stored."""
    return next((row["model"] for row in rows if row["model"].startswith("SuperPoint")), None)


def _layers(part: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    titles = list(dict.fromkeys(row["pruning"] for row in part["rows"]))
    engines = [name for name in _NAMES if any(name in row["ms"] for row in part["rows"])]
    times, roofs = [], []
    for row in part["rows"]:
        first = row["pruning"] == titles[0]
        kind = _kind(row) if first else ""
        shown = [f"{row['ms'][name]:.2f}" if name in row["ms"] else "–" for name in engines]
        times.append([kind, row["pruning"], *shown])
        flops = 2 * row["nonzero"] * row["positions"]
        intensity = flops / row["bytes"]
        roof = min(limits["gflops"], intensity * limits["gbytes"])
        reached = flops / row["ms"]["sparse"] / 1e6
        dense = 2 * row["macs"] / row["ms"]["onnxruntime"] / 1e6
        roofs.append(
            [
                kind,
                row["pruning"],
                f"{flops / 1e9:.2f}",
                f"{intensity:.0f}",
                f"{roof:.0f}",
                f"{reached:.0f}",
                f"{dense:.0f}",
            ]
        )
    values = _layer_values(part["rows"])
    limited = sum(float(row[4]) < round(limits["gflops"]) for row in roofs)
    words = (
        "Memory limits none of these layers: their roof is the peak."
        if not limited
        else f"Memory limits {limited} of these {len(roofs)} layers; the roof of the others is the "
        "peak."
    )
    return [
        "### Single layers\n",
        _LAYERS.format(**values) + "\n",
        format_table(["layer", "zeros", *(_NAMES[name] for name in engines)], times),
        "\n### Roofline\n",
        _ROOFLINE.format(**limits) + "\n",
        format_table(
            [
                "layer",
                "zeros",
                "GFLOP",
                "FLOP/byte",
                "roof, GFLOP/s",
                "sparse kernel, GFLOP/s",
                "ONNX Runtime, all weights, GFLOP/s",
            ],
            roofs,
        ),
        "\n" + _LIMITS.format(**values, roofs=words) + "\n",
        _origin(part, limits),
    ]


def _layer_values(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the numbers of `_LAYERS` and `_LIMITS`."""

    def rates(pruning: str) -> float:
        """Mean GFLOP/s of the sparse kernel, which counts weights that are not zero."""
        found = [row for row in rows if row["pruning"] == pruning]
        flops = [2 * row["nonzero"] * row["positions"] for row in found]
        return float(
            mean(f / row["ms"]["sparse"] / 1e6 for f, row in zip(flops, found, strict=True))
        )

    single = [row for row in rows if row["pruning"] == "89 %"]
    pruned = [row["ms"] for row in single]
    spreads = []
    for layer in {row["layer"] for row in rows}:
        for engine in ("onnxruntime", "openvino"):
            times = [row["ms"][engine] for row in rows if row["layer"] == layer]
            spreads.append(100 * (max(times) / min(times) - 1))
    csr = [ms["torch csr"] / ms["onnxruntime"] for ms in pruned if "torch csr" in ms]
    gains = [ms["onnxruntime"] / ms["sparse"] for ms in pruned]
    return {
        "csr": _CSR.format(low=min(csr), high=max(csr)) if csr else "",
        "single": rates("89 %"),
        "tall": rates("89 %, 4×1"),
        "wide": rates("89 %, 1×8"),
        "dense": mean(2 * row["macs"] / row["ms"]["onnxruntime"] / 1e6 for row in rows),
        "spread": max(spreads),
        "fewer": mean(row["macs"] / (row["nonzero"] * row["positions"]) for row in single),
        "gain_low": min(gains),
        "gain_high": max(gains),
        **{name: 100 * zeros for name, zeros in MIN_ZEROS.items()},
    }


def _kind(row: Row) -> str:
    """Describe the layer of a row."""
    outputs, inputs = row["shape"][:2]
    if row["map"] is None:
        return f"linear {inputs} → {outputs}, {row['positions']} keypoints"
    height, width = row["map"]
    return f"3×3, {inputs} → {outputs}, {width}×{height}"


def _key(row: Row) -> tuple[str, str]:
    return row["model"], row["runtime"]


def _origin(*parts: Mapping[str, Any]) -> str:
    """State where and when parts were measured."""
    places = dict.fromkeys(where(part["origin"]) for part in parts)
    return f"Measured {' and '.join(places)}.\n"

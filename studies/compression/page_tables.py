"""The tables of the page, from the rows of results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featherglue.errors import counted
from featherglue.io.tables import format_table
from studies.compression.experiments import DENSE, EXPERIMENTS, StudyRow
from studies.compression.journal import format_duration

Row = Mapping[str, Any]
METRICS = ("AUC@5", "AUC@10", "AUC@25", "precision", "recall")
_VECTORS = {"avx512f": " with AVX-512", "avx2": " with AVX2", "asimd": ""}  # the widest first
RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def numbers(measured: Row) -> list[float]:
    """Return the scores in the order of `METRICS`, in percent."""
    areas = [measured["auc"][threshold] for threshold in ("5", "10", "25")]
    return [*areas, measured["precision"], measured["recall"]]


def final(row: Row) -> Row:
    """Return the scores after fine-tuning, or those before it if there was none."""
    scores: Row = row["before"] if row["after"] is None else row["after"]
    return scores


def study_of(name: str) -> StudyRow | None:
    """Return the row of the reference study, or None."""
    return next((e.study for e in (DENSE, *EXPERIMENTS) if e.name == name), None)


def _study_numbers(row: StudyRow) -> list[float]:
    return [*row.auc, row.precision, row.recall]


def lost(row: Row, dense: Row) -> list[float]:
    """Return what a model loses against its dense model, in points."""
    return [a - b for a, b in zip(numbers(final(dense)), numbers(final(row)), strict=True)]


def loss_table(rows: Sequence[Row]) -> str:
    """Return Table 1a: the loss of each model against its own dense model."""
    dense = rows[0]
    table = []
    for row in rows[1:]:
        study = study_of(row["name"])
        ours = [round(value, 1) + 0.0 for value in lost(row, dense)]  # without −0.0
        cells = [f"{value:.1f}" for value in ours]
        if study is not None:
            assert DENSE.study is not None
            pairs = zip(_study_numbers(DENSE.study), _study_numbers(study), strict=True)
            cells = [f"{c} ({a - b:.1f})" for c, (a, b) in zip(cells, pairs, strict=True)]
        table.append([row["title"], *cells])
    return format_table(["points lost, of the study in brackets", *METRICS], table)


def accuracy_table(rows: Sequence[Row]) -> str:
    """Return Table 1b: the scores before and after fine-tuning."""
    table = []
    for row in rows:
        cells = [f"{value:.1f}" for value in numbers(row["before"])]
        if row["name"] != DENSE.name:
            after = ["–"] * len(cells)
            if row["after"] is not None:
                after = [f"{value:.1f}" for value in numbers(row["after"])]
            cells = [f"{old} → {new}" for old, new in zip(cells, after, strict=True)]
        table.append([row["title"], *cells])
        study = study_of(row["name"])
        if study is not None:
            cells = [f"{value:.1f}" for value in _study_numbers(study)]
            table.append(["– study", *cells])
    return format_table(["", *METRICS], table)


def settings_table(rows: Sequence[Row]) -> str:
    """Return Table 1c: fine-tuning, match threshold and calibration of each model."""
    table = []
    for row in rows[1:]:
        count = row["calibration"] if row.get("calibration") and row.get("calibrated") else "–"
        threshold = f"{row['match_threshold']:.2f}{' *' if row['threshold_chosen'] else ''}"
        table.append([row["title"], _steps(row), threshold, str(count)])
    head = ["", "steps of fine-tuning", "match threshold", "calibration photographs"]
    return format_table(head, table)


def _steps(row: Row) -> str:
    """Return the steps of fine-tuning with the device, such as "198 + 129, cuda"."""
    settings = row.get("finetuning")
    if row["after"] is None or not settings:
        return "–"
    return f"{' + '.join(map(str, settings['taken']))}, {settings['device']}"


def size_table(rows: Sequence[Row], shipped: Sequence[Row]) -> str:
    """Return Table 2a: parameters and bytes."""
    head = [
        "",
        "parameters, M",
        "non-zero, M",
        "counted as in the study, MiB",
        "on disk, MiB",
        "dense / on disk",
    ]
    first = rows[0]["bytes_on_disk"]
    table = []
    for row in (*rows, *shipped):
        study = study_of(row["name"])
        parameters, mib = (
            (f" ({study.parameters:.2f})", f" ({study.mib:.2f})") if study else ("", "")
        )
        table.append(
            [
                row.get("title", f"`{row['name']}`, as shipped"),
                f"{row['parameters'] / 1e6:.2f}",
                f"{row['nonzero'] / 1e6:.2f}{parameters}",
                f"{row['study_bytes'] / 2**20:.2f}{mib}",
                f"{row['bytes_on_disk'] / 2**20:.2f}",
                f"{first / row['bytes_on_disk']:.1f}",
            ]
        )
    return format_table(head, table)


def speed_table(rows: Sequence[Row], shipped: Sequence[Row]) -> str:
    """Return Table 2b: operations and milliseconds in the runtimes that were measured."""
    table, both = [], [*rows, *shipped]
    runtimes = [name for name in RUNTIMES if any(name in row["ms"] for row in both)]
    for row in both:
        ms = [row["ms"].get(runtime) for runtime in runtimes]
        table.append(
            [
                row.get("title", f"`{row['name']}`, as shipped"),
                f"{row['macs'] / 1e9:.2f}",
                f"{row['macs_effective'] / 1e9:.2f}",
                *("–" if value is None else f"{value:.0f}" for value in ms),
            ]
        )
    head = ["", "GMACs", "GMACs without zeros", *(f"{RUNTIMES[name]}, ms" for name in runtimes)]
    return format_table(head, table)


def explanation_table(rows: Sequence[Row]) -> str:
    """Return the scores of the variants of an explanation."""
    names = [name for name in rows[0] if name != "title"]
    head = ["", *(name.replace("auc", "AUC@") for name in names)]
    return format_table(
        head, [[row["title"], *(f"{row[name]:.1f}" for name in names)] for row in rows]
    )


def allocation_table(rows: Sequence[Row]) -> str:
    """Return the losses of the allocation by the scan and of one ratio for all layers."""
    table: dict[tuple[float, str], dict[str, str]] = {}
    for row in rows:
        cell = f"{row['loss']:.1f} [{row['low']:.1f}, {row['high']:.1f}]"
        key = row["sparsity"], row["state"]
        table.setdefault(key, {})[row["allocation"]] = cell
    head = ["zeros", "matches", "allocated by the scan", "one ratio for all layers"]
    return format_table(
        head,
        [
            [f"{100 * sparsity:.0f} %", state, cells["scan"], cells["uniform"]]
            for (sparsity, state), cells in table.items()
        ],
    )


def times_table(seconds: Mapping[str, float]) -> str:
    """Return the computation time by kind of step."""
    kinds: dict[str, list[float]] = {}
    for name, spent in seconds.items():
        kind = name.rpartition(", ")[2]
        kinds.setdefault(kind.partition(" before")[0].partition(" after")[0], []).append(spent)
    rows = [[kind, str(len(s)), format_duration(sum(s))] for kind, s in kinds.items()]
    return format_table(["step", "number", "time"], rows)


def origins(rows: Sequence[Row], part: str, verb: str) -> str:
    """Return a sentence for each machine and date on which a part of the rows was measured.

    Args:
        rows: rows of the results.
        part: "accuracy" or "latency".
        verb: "measured" or "timed".
    """
    counts: dict[str, int] = {}
    for row in rows:
        origin = row["origin"].get(part)
        if origin:
            words = where(origin)
            counts[words] = counts.get(words, 0) + 1
    return " ".join(
        f"{counted(count, 'row')} {'was' if count == 1 else 'were'} {verb} {words}."
        for words, count in counts.items()
    )


def where(origin: Row) -> str:
    """Return the machine, the date and, of latencies, the conditions of an origin in words."""
    flags = origin.get("flags", [])
    widest = next((name for flag, name in _VECTORS.items() if flag in flags), "")
    text = f"on {origin['processor']}{widest}, {origin['cores']} cores, {origin['date']}"
    if "threads" in origin:
        text += f", {timing_words(origin)}"
    return text


def timing_words(conditions: Row) -> str:
    """Return how latencies were measured; see `timing.conditions`."""
    threads = conditions["threads"]
    clock = "1 thread (CPU time)" if threads == 1 else f"{threads} threads (elapsed time)"
    words = f"with {clock}, medians of {counted(conditions['turns'], 'turn')}"
    if "load" in conditions:
        low, high = conditions["load"]
        words += f", at a load average of {low:.1f} to {high:.1f}"
    return words

"""The sections of speed and size in a report."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from featherglue.evaluation.report.html_table import (
    Column,
    Result,
    columns_with_values,
    table,
    value_of,
)
from featherglue.evaluation.report.media import figure


def by_size(result: Result) -> list[Result]:
    """Split a benchmark of several image sizes into one for each size."""
    sizes: dict[tuple[int, ...], list[Any]] = {}
    for row in result["rows"]:
        sizes.setdefault(tuple(row.get("image_size", result["image_size"])), []).append(row)
    return [{**result, "image_size": list(size), "rows": rows} for size, rows in sizes.items()]


def benchmark_section(result: Result) -> str:
    """The times of one image size."""
    from featherglue.evaluation import plots

    rows = result["rows"]
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))

    def stage(name: str) -> Callable[[Result], float | None]:
        return lambda row: row["stages"].get(name, {}).get("median_ms")

    columns = [Column("keypoints", value_of("max_keypoints"), digits=0)]
    columns += [
        Column("end to end", lambda row: row["end_to_end"]["median_ms"], -1),
        Column("p95", lambda row: row["end_to_end"]["p95_ms"], -1),
        Column("frames/s", value_of("frames_per_second"), 1),
        Column("cold start", value_of("cold_start_ms"), -1, 0),
        Column(
            "peak MiB",
            lambda row: row["peak_bytes"] / 2**20 if "peak_bytes" in row else None,
            -1,
            0,
        ),
    ]
    parts_of_time = [Column(name, stage(name), digits=2) for name in stages]
    names = [str(row["label"]) for row in rows]
    several = len({row["max_keypoints"] for row in rows}) > 1
    width, height = result["image_size"]
    machine = result["machine"]
    parts = [
        f"<section><h2>Speed at {width}×{height}</h2>",
        f"<p>Medians in ms over {result['repetitions']} repetitions; the contenders take turns. "
        f"{html.escape(machine['processor'])}, {machine['cores']} cores, "
        f"{html.escape(', '.join(machine['flags']))}.</p>",
        table(names, rows, columns_with_values(columns, rows), None, best=not several),
        table(names, rows, [columns[0], *parts_of_time], None, best=False) if stages else "",
    ]
    if several:
        parts.append(figure(plots.latency_figure(result), "Latency over the number of keypoints."))
    return "".join(parts) + "</section>"


def size_section(benchmarks: list[Result]) -> str:
    """Parameters, operations and bytes of the measured models; "" if there are none."""
    rows = {
        str(row["label"]): row
        for result in benchmarks
        for row in result["rows"]
        if "parameters" in row
    }
    if not rows:
        return ""
    columns = [
        Column("parameters", value_of("parameters"), -1, 0),
        Column("non-zero", value_of("nonzero"), -1, 0),
        Column("MACs, G", lambda row: row["macs"] / 1e9 if "macs" in row else None, -1, 2),
        Column("bytes on disk", value_of("bytes_on_disk"), -1, 0),
    ]
    return (
        f"<section><h2>Size</h2>{table(list(rows), list(rows.values()), columns, None)}</section>"
    )

"""One self-contained HTML page from the results of `evaluate` and `benchmark`."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from featherglue.errors import ReportError, UsageError
from featherglue.io.files import atomic_write
from featherglue.io.image import read_grey

FORMAT_VERSION = 1
Result = Mapping[str, Any]
_LARGER, _SMALLER = 1, -1
_KEYS = {
    "evaluation": ("suite", "model", "settings", "auc", "pairs", "results"),
    "benchmark": ("image_size", "repetitions", "machine", "rows"),
}


# Other figures by threshold -> heading.
_MORE = {
    "auc_lo": "optimized",
    "auc_magsac": "MAGSAC++",
    "auc_dlt": "DLT",
    "accuracy": "accuracy",
    "mma": "MMA",
}


@dataclass(frozen=True)
class Column:
    """A column of a table: what it shows of a result, and whether more is better (1, −1, 0)."""

    heading: str
    value: Callable[[Result], float | None]
    better: int = 0
    digits: int = 1


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read results and check that they can stand in one report.

    Results of several suites each get a section of their own; those of one suite must have the
    same settings and pairs.

    Raises:
        ReportError: missing, not a result, from a newer version, or two of one suite that differ
            in what they measure.
    """
    results = [_read(Path(path)) for path in paths]
    seen: dict[str, dict[str, Any]] = {}
    for result in results:
        if result["kind"] != "evaluation":
            continue
        first = seen.setdefault(result["suite"], result)
        for key in ("settings", "pairs"):
            if first[key] != result[key]:
                raise ReportError(
                    f"{first['path']} and {result['path']} differ in {key}: their numbers cannot "
                    "be compared; evaluate both alike, or make two reports"
                )
        if [row.get("name") for row in first["results"]] != [
            row.get("name") for row in result["results"]
        ]:
            raise ReportError(
                f"{first['path']} and {result['path']} are of different pairs: their numbers "
                "cannot be compared"
            )
    _name_apart(results)
    return results


def _name_apart(results: Sequence[dict[str, Any]]) -> None:
    """Give results of one suite whose models share a name the name of their file too."""
    evaluations = [result for result in results if result["kind"] == "evaluation"]
    names = [(result["suite"], result["model"]["name"]) for result in evaluations]
    for result, name in zip(evaluations, names, strict=True):
        if names.count(name) > 1:
            result["model"]["name"] = f"{name[1]} ({Path(result['path']).stem})"


def _read(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ReportError(f"{path}: not JSON ({error})") from None
    if not isinstance(result, dict):
        raise ReportError(f"{path}: not a result of featherglue evaluate or benchmark")
    kind, version = result.get("kind"), result.get("format_version")
    if kind not in _KEYS or not isinstance(version, int):
        raise ReportError(f"{path}: not a result of featherglue evaluate or benchmark")
    missing = [key for key in _KEYS[kind] if key not in result]
    if version <= FORMAT_VERSION and missing:
        raise ReportError(f"{path}: not a whole result, {missing[0]!r} is missing")
    if version > FORMAT_VERSION:
        raise ReportError(
            f"{path}: written by a newer featherglue ({result.get('featherglue')}): upgrade"
        )
    result["path"] = str(path)
    return result


def write_report(
    results: Sequence[Result],
    path: str | os.PathLike[str],
    *,
    title: str = "featherglue",
    baseline: str | None = None,
    pictures: Sequence[str | os.PathLike[str]] = (),
) -> None:
    """Write the page.

    Args:
        results: from `read_results`.
        baseline: name of the model that differences are shown to; the first one by default.
        pictures: image files to show, such as drawings of the worst pairs.

    Raises:
        UsageError: nothing to report, or no model of the baseline's name.
        OutputError: the file cannot be written.
    """
    evaluations = [result for result in results if result["kind"] == "evaluation"]
    benchmarks = [result for result in results if result["kind"] == "benchmark"]
    if not results:
        raise UsageError("nothing to report: give results of evaluate and benchmark")
    names = [str(result["model"]["name"]) for result in evaluations]
    if baseline is not None and baseline not in names:
        raise UsageError(f"no result of {baseline!r}; there are {', '.join(names)}")
    sections = []
    for suite in dict.fromkeys(result["suite"] for result in evaluations):
        group = [result for result in evaluations if result["suite"] == suite]
        sections.append(_suite_section(suite, group, benchmarks, baseline))
    for result in benchmarks:
        sections.extend(_benchmark_section(part) for part in _by_size(result))
    sections.append(_size_section(benchmarks))
    if pictures:
        sections.append(_pictures_section(pictures))
    sections.append(_origin_section(results))
    style = resources.files("featherglue.evaluation").joinpath("report.css").read_text()
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head>"
        f"<body><h1>{html.escape(title)}</h1>{''.join(sections)}</body></html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode())


def _suite_section(
    suite: str, group: list[Result], benchmarks: list[Result], baseline: str | None
) -> str:
    from featherglue.evaluation import plots

    first = group[0]
    columns = [
        Column(f"AUC@{threshold}", _picker("auc", threshold), _LARGER)
        for threshold in first.get("auc", {})
    ]
    for key, heading in _MORE.items():
        columns += [
            Column(f"{heading}@{threshold}", _picker(key, threshold), _LARGER)
            for threshold in dict.fromkeys(t for row in group for t in row.get(key, {}))
        ]
    columns += [
        Column("precision", _picker("precision"), _LARGER),
        Column("recall", _picker("recall"), _LARGER),
        Column("matching score", _picker("matching_score"), _LARGER),
        Column("repeatability", _picker("repeatability"), _LARGER),
        Column("localisation, px", _picker("localisation_error"), _SMALLER, 2),
        Column("matches", _picker("matches"), digits=0),
        Column("failures", _picker("failures"), _SMALLER, digits=0),
    ]
    shown = [column for column in columns if any(column.value(row) is not None for row in group)]
    names = [str(row["model"]["name"]) for row in group]
    against = names.index(baseline) if baseline in names else 0
    settings = ", ".join(f"{key} {value}" for key, value in first["settings"].items())
    parts = [
        f"<section><h2>Suite: {html.escape(suite)}</h2>",
        f"<p>{first['pairs']} pairs. {html.escape(settings)}</p>",
        table(names, group, shown, against),
        figure(plots.recall_figure(group), "Share of pairs whose error is below a threshold."),
    ]
    speeds = _speeds(group, benchmarks)
    timed = [row for row in group if str(row["model"]["name"]) in speeds]
    if timed:
        trade = plots.trade_figure(timed, speeds, "median_ms", "ms for a frame and its matches")
        parts.append(figure(trade, "Accuracy against time; up and to the left is better."))
    sized = [row for row in timed if "mib" in speeds[str(row["model"]["name"])]]
    if len(sized) > 1:
        trade = plots.trade_figure(sized, speeds, "mib", "MiB on disk")
        parts.append(figure(trade, "Accuracy against size; up and to the left is better."))
    return "".join(parts) + "</section>"


def _picker(key: str, threshold: str | None = None) -> Callable[[Result], float | None]:
    def pick(row: Result) -> float | None:
        value = row.get(key)
        if threshold is not None and isinstance(value, Mapping):
            value = value.get(threshold)
        return float(value) if isinstance(value, (int, float)) else None

    return pick


def _speeds(group: list[Result], benchmarks: list[Result]) -> dict[str, dict[str, float]]:
    """Median ms and MiB of each model of a suite that was timed at the same keypoints."""
    timed = {
        (str(row["label"]), row["max_keypoints"]): row
        for result in reversed(benchmarks)
        for row in reversed(result["rows"])
    }
    speeds: dict[str, dict[str, float]] = {}
    for evaluation in group:
        model = evaluation["model"]
        count = model.get("extractor", {}).get("max_keypoints", model.get("max_keypoints"))
        row = timed.get((str(model["name"]), count))
        if row is not None:
            facts = {"median_ms": float(row["end_to_end"]["median_ms"])}
            if "bytes_on_disk" in row:
                facts["mib"] = float(row["bytes_on_disk"]) / 2**20
            speeds[str(model["name"])] = facts
    return speeds


def _by_size(result: Result) -> list[Result]:
    """A benchmark of several image sizes as one of each."""
    sizes: dict[tuple[int, ...], list[Any]] = {}
    for row in result["rows"]:
        sizes.setdefault(tuple(row.get("image_size", result["image_size"])), []).append(row)
    return [{**result, "image_size": list(size), "rows": rows} for size, rows in sizes.items()]


def _benchmark_section(result: Result) -> str:
    from featherglue.evaluation import plots

    rows = result["rows"]
    stages = list(dict.fromkeys(stage for row in rows for stage in row["stages"]))

    def stage(name: str) -> Callable[[Result], float | None]:
        return lambda row: row["stages"].get(name, {}).get("median_ms")

    columns = [Column("keypoints", _picker("max_keypoints"), digits=0)]
    columns += [
        Column("end to end", lambda row: row["end_to_end"]["median_ms"], _SMALLER),
        Column("p95", lambda row: row["end_to_end"]["p95_ms"], _SMALLER),
        Column("frames/s", _picker("frames_per_second"), _LARGER),
        Column("cold start", _picker("cold_start_ms"), _SMALLER, 0),
        Column(
            "peak MiB",
            lambda row: row["peak_bytes"] / 2**20 if "peak_bytes" in row else None,
            _SMALLER,
            0,
        ),
    ]
    columns += [Column(name, stage(name), digits=2) for name in stages]
    several = len({row["max_keypoints"] for row in rows}) > 1
    width, height = result["image_size"]
    machine = result["machine"]
    parts = [
        f"<section><h2>Speed at {width}×{height}</h2>",
        f"<p>Medians in ms over {result['repetitions']} repetitions, all taking turns. "
        f"{html.escape(machine['processor'])}, {machine['cores']} cores, "
        f"{html.escape(', '.join(machine['flags']))}.</p>",
        table([str(row["label"]) for row in rows], rows, columns, None, best=not several),
    ]
    if several:
        parts.append(figure(plots.latency_figure(result), "Latency over the number of keypoints."))
    return "".join(parts) + "</section>"


def _size_section(benchmarks: list[Result]) -> str:
    """Parameters, cost and bytes of the models that were measured."""
    rows = {
        str(row["label"]): row
        for result in benchmarks
        for row in result["rows"]
        if "parameters" in row
    }
    if not rows:
        return ""
    columns = [
        Column("parameters", _picker("parameters"), _SMALLER, 0),
        Column("non-zero", _picker("nonzero"), _SMALLER, 0),
        Column("MACs, G", lambda row: row["macs"] / 1e9, _SMALLER, 2),
        Column("bytes on disk", _picker("bytes_on_disk"), _SMALLER, 0),
    ]
    return (
        f"<section><h2>Size</h2>{table(list(rows), list(rows.values()), columns, None)}</section>"
    )


def table(
    names: Sequence[str],
    rows: Sequence[Result],
    columns: Sequence[Column],
    baseline: int | None,
    best: bool = True,
) -> str:
    """An HTML table with the best of each column marked and differences to the baseline row."""
    head = "".join(f"<th>{html.escape(column.heading)}</th>" for column in columns)
    values = [[column.value(row) for column in columns] for row in rows]
    winners = [
        _best([row[i] for row in values], column.better) if best and len(rows) > 1 else None
        for i, column in enumerate(columns)
    ]
    lines = []
    for r, name in enumerate(names):
        cells = []
        for c, column in enumerate(columns):
            value = values[r][c]
            text = "–" if value is None else f"{value:,.{column.digits}f}"
            if value is not None and value == winners[c]:
                text = f"<b>{text}</b>"
            reference = None if baseline is None or r == baseline else values[baseline][c]
            if value is not None and reference is not None and column.better:
                text += f"<small>{value - reference:+.{column.digits}f}</small>"
            cells.append(f"<td>{text}</td>")
        lines.append(f"<tr><th>{html.escape(name)}</th>{''.join(cells)}</tr>")
    note = ""
    if baseline is not None and len(rows) > 1:
        note = f"<p class=note>Differences to {html.escape(names[baseline])}; best in bold.</p>"
    body = "".join(lines)
    return (
        f"<div class=scroll><table><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>{note}"
    )


def _best(values: Sequence[float | None], better: int) -> float | None:
    known = [value for value in values if value is not None]
    if not known or better == 0:
        return None
    return max(known) if better > 0 else min(known)


def figure(drawing: Any, caption: str) -> str:
    """A matplotlib figure as inline SVG with a caption."""
    from featherglue.evaluation.plots import figure_svg

    return f"<figure>{figure_svg(drawing)}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _pictures_section(pictures: Sequence[str | os.PathLike[str]]) -> str:
    parts = ["<section><h2>Pictures</h2>"]
    for path in pictures:
        read_grey(path)  # for its errors
        image = cv2.imread(os.fspath(path), cv2.IMREAD_COLOR)
        assert image is not None
        scale = min(1.0, 1400 / image.shape[1])
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        data = base64.b64encode(np.asarray(encoded).tobytes()).decode()
        name = html.escape(Path(path).stem)
        parts.append(
            f'<figure><img alt="{name}" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{name}</figcaption></figure>"
        )
    return "".join(parts) + "</section>"


def _origin_section(results: Sequence[Result]) -> str:
    """Where the numbers come from: the commands, and the machines."""
    items = []
    for result in results:
        command = result.get("command") or f"({result['path']})"
        items.append(f"<li><code>{html.escape(str(command))}</code></li>")
    machines = {
        json.dumps(result["machine"], indent=1) for result in results if "machine" in result
    }
    listed = "".join(f"<pre>{html.escape(machine)}</pre>" for machine in sorted(machines))
    return f"<section><h2>How it was measured</h2><ul>{''.join(items)}</ul>{listed}</section>"

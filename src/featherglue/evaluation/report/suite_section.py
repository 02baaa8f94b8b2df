"""The section of a suite in a report."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from featherglue.evaluation.report.html_table import (
    Column,
    Result,
    columns_with_values,
    table,
    value_of,
)
from featherglue.evaluation.report.media import figure, image

# Metrics by threshold beside the AUC by RANSAC -> heading.
_BY_THRESHOLD = {
    "auc_lo": "optimized",
    "auc_magsac": "MAGSAC++",
    "auc_dlt": "DLT",
    "accuracy": "accuracy",
    "mma": "MMA",
}
_MATCHING_SCORE = Column("matching score", value_of("matching_score"), 1)
_KINDS = {"best": "Best pairs", "worst": "Worst pairs"}


def suite_section(
    suite: str, group: list[Result], benchmarks: list[Result], baseline: str | None
) -> str:
    """The results of one suite: tables, curves and examples."""
    from featherglue.evaluation import plots

    first = group[0]
    names = [str(row["model"]["name"]) for row in group]
    against = names.index(baseline) if baseline in names else 0
    settings = "; ".join(f"{k} {_plain(k, value)}" for k, value in first["settings"].items())
    parts = [
        f"<section><h2>Suite: {html.escape(suite)}</h2>",
        f"<p>{first['pairs']} pairs. Settings: {html.escape(settings)}.</p>",
        table(names, group, columns_with_values(_main_columns(group), group), against),
        _more_table(names, group, against),
    ]
    figures = [
        figure(
            plots.recall_figure(group),
            "Percentage of pairs whose error is at most that of the axis.",
        )
    ]
    speeds = _speeds(group, benchmarks)
    timed = [row for row in group if str(row["model"]["name"]) in speeds]
    if len(timed) > 1:
        trade = plots.trade_figure(timed, speeds, "median_ms", "ms for a frame and its matches")
        figures.append(figure(trade, "Accuracy against time; up and to the left is better."))
    sized = [row for row in timed if "mib" in speeds[str(row["model"]["name"])]]
    if len(sized) > 1:
        trade = plots.trade_figure(sized, speeds, "mib", "MiB on disk")
        figures.append(figure(trade, "Accuracy against size; up and to the left is better."))
    parts.append(f"<div class=figures>{''.join(figures)}</div>")
    parts.append(_examples(group))
    return "".join(parts) + "</section>"


def _plain(key: str, value: object) -> str:
    """A setting as text: yes or no, a size, or the values of a list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ("×" if key == "size" else " / ").join(map(str, value))
    return str(value)


def _main_columns(group: Sequence[Result]) -> list[Column]:
    thresholds = dict.fromkeys(t for row in group for t in row["auc"])
    recall = Column("recall", value_of("recall"), 1)
    if group[0]["suite"] == "pose":  # true correspondences are unknown
        recall = _MATCHING_SCORE
    return [
        *(Column(f"AUC@{t}", value_of("auc", t), 1) for t in thresholds),
        Column("precision", value_of("precision"), 1),
        recall,
        Column("matches", value_of("matches"), digits=0),
        Column("failures", value_of("failures"), -1, digits=0),
    ]


def _more_table(names: Sequence[str], group: Sequence[Result], baseline: int) -> str:
    """Tables of the other metrics, one for each estimator."""
    parts = []
    for key, heading in _BY_THRESHOLD.items():
        values = [row.get(key) for row in group]
        thresholds = dict.fromkeys(t for v in values if isinstance(v, Mapping) for t in v)
        columns = [Column(f"{heading}@{t}", value_of(key, t), 1) for t in thresholds]
        if columns:
            parts.append(table(names, group, columns, baseline, note=False))
    columns = [
        Column("repeatability", value_of("repeatability"), 1),
        Column("localization, px", value_of("localization_error"), -1, 2),
    ]
    if group[0]["suite"] != "pose":
        columns.insert(0, _MATCHING_SCORE)
    shown = columns_with_values(columns, group)
    if shown:
        parts.append(table(names, group, shown, baseline, note=False))
    return f"<details><summary>Other metrics</summary>{''.join(parts)}</details>" if parts else ""


def _examples(group: Sequence[Result]) -> str:
    """Pictures of the best and the worst pairs of each model."""
    parts = []
    shown = False
    for row in group:
        name = html.escape(str(row["model"]["name"]))
        examples = row.get("examples")
        if not isinstance(examples, list) or not examples:
            parts.append(
                f"<p class=note>No pictures of {name}: the result holds none. "
                "Results that <code>featherglue evaluate</code> writes as JSON hold them.</p>"
            )
            continue
        for kind, title in _KINDS.items():
            chosen = [e for e in examples if isinstance(e, Mapping) and e.get("kind") == kind]
            if chosen:
                shown = True
                pictures = "".join(
                    image(str(e.get("jpeg", "")), f"{e.get('name', '')}: {e.get('caption', '')}")
                    for e in chosen
                )
                parts.append(f"<h3>{title} of {name}</h3><div class=pictures>{pictures}</div>")
    legend = "<p class=note>Correct matches are green, wrong ones red.</p>" if shown else ""
    return legend + "".join(parts)


def _speeds(group: list[Result], benchmarks: list[Result]) -> dict[str, dict[str, float]]:
    """Median ms and MiB of the models that were timed at the same number of keypoints."""
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

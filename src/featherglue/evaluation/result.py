"""The outcome of an evaluation, and how it is written: JSON, CSV, Markdown."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import featherglue
from featherglue.evaluation.suites import PairResult
from featherglue.io.files import atomic, write_json
from featherglue.io.tables import format_csv, format_table

KIND, FORMAT_VERSION = "evaluation", 1
# Key of the summary → heading; a key with values by threshold gives a column for each.
_COLUMNS = {
    "auc": "AUC@{}",
    "auc_lo": "optimized AUC@{}",
    "auc_magsac": "MAGSAC++ AUC@{}",
    "auc_dlt": "DLT AUC@{}",
    "accuracy": "accuracy@{}",
    "mma": "MMA@{}",
    "precision": "precision",
    "recall": "recall",
    "matching_score": "matching score",
    "repeatability": "repeatability",
    "localisation_error": "localisation (px)",
    "matches": "matches",
    "pairs": "pairs",
    "failures": "failures",
}
_SHOWN_MMA = ("1", "3", "5", "10")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a suite says about a session.

    Attributes:
        suite: its name. settings: what shapes its numbers. source: where the pairs come from.
        model: description of what was evaluated, with a `name`.
        summary: `auc` (percent by threshold, "5" for 5.0), `precision`, `recall` (percent),
            `matches` (mean), `pairs`, `failures`, `unreadable`, and more by suite.
        results: of each pair, in the order of the list.
        command: that gives these numbers again, or "".
    """

    suite: str
    settings: Mapping[str, Any]
    source: Mapping[str, str]
    model: Mapping[str, Any]
    summary: Mapping[str, Any]
    results: tuple[PairResult, ...]
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is infinite or NaN becomes null."""
        plain = _finite(
            {
                "format_version": FORMAT_VERSION,
                "kind": KIND,
                "featherglue": featherglue.__version__,
                "suite": self.suite,
                "command": self.command,
                "model": self.model,
                "settings": self.settings,
                "source": self.source,
                **self.summary,
                "results": [_row(result) for result in self.results],
            }
        )
        assert isinstance(plain, dict)
        return plain

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        write_json(path, self.to_dict())

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a line for each pair.

        Raises:
            OutputError: the file cannot be written.
        """
        with atomic(path) as file:
            file.write(format_csv([_row(result) for result in self.results]).encode())

    def to_markdown(self) -> str:
        """A table with a line for all pairs and one for each group."""
        groups = {key: value for key, value in self.summary.items() if "pairs" in _keys(value)}
        name = str(self.model["name"])
        lines = [
            (name, self.summary),
            *((f"{name}, {key}", value) for key, value in groups.items()),
        ]
        return markdown_table(lines)

    def worst(self, count: int) -> list[PairResult]:
        """The pairs with the largest errors; of equal ones those with the lowest precision."""

        def badness(result: PairResult) -> tuple[float, float, int]:
            return -result.metrics["error"], result.metrics["precision"], result.index

        return sorted(self.results, key=badness)[:count]


def markdown_table(lines: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Summaries of one suite as a Markdown table, each with its name in front.

    Args:
        lines: name and summary (see `Evaluation.summary`); there is a column for whatever one of
            them has.
    """
    columns: dict[str, tuple[str, str | None]] = {}
    for _, summary in lines:
        columns |= _columns(summary)
    rows = [
        [name.replace("|", "\\|"), *(_cell(summary, *column) for column in columns.values())]
        for name, summary in lines
    ]
    return format_table(["", *columns], rows)


def _columns(summary: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Heading → key of the summary and, where it has values by threshold, the threshold."""
    columns: dict[str, tuple[str, str | None]] = {}
    for key, heading in _COLUMNS.items():
        if isinstance(summary.get(key), Mapping):
            for threshold in summary[key]:
                if key != "mma" or threshold in _SHOWN_MMA:
                    columns[heading.format(threshold)] = (key, threshold)
        elif key in summary:
            columns[heading] = (key, None)
    return columns


def _cell(summary: Mapping[str, Any], key: str, threshold: str | None) -> str:
    value = summary.get(key)
    if threshold is not None and value is not None:
        value = value.get(threshold)
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int):
        return str(value)
    return f"{value:.2f}" if key == "localisation_error" else f"{value:.1f}"


def _row(result: PairResult) -> dict[str, Any]:
    return {
        "index": result.index,
        "name": result.name,
        "group": result.group,
        **result.metrics,
        "failure": result.failure,
        "unreadable": result.unreadable,
    }


def _keys(value: Any) -> set[str]:
    return set(value) if isinstance(value, Mapping) else set()


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value

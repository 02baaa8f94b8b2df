"""The result of an evaluation, and its forms: JSON, CSV, Markdown."""

from __future__ import annotations

import base64
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import featherglue
from featherglue.evaluation.suites import PairResult
from featherglue.io.files import atomic_write, write_json
from featherglue.io.tables import format_csv, format_table

KIND, FORMAT_VERSION = "evaluation", 1
# Key of the summary -> heading. A key whose values are by threshold has a column for each.
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
    "localization_error": "localization (px)",
    "matches": "matches",
    "pairs": "pairs",
    "failures": "failures",
}
# The main figures. A suite whose recall is unknown shows the matching score instead.
_MAIN = ("auc", "precision", "recall", "matches", "pairs")
_MAIN_POSE = ("auc", "precision", "matching_score", "matches", "pairs")
_SHOWN_MMA = ("1", "3", "5", "10")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture of a matched pair.

    Attributes:
        kind: whether the pair is one of the best or one of the worst of its evaluation.
        name: name of the pair.
        caption: error, number of matches and precision, as text.
        jpeg: content of a JPEG file; correct matches are green, wrong ones red.
    """

    kind: Literal["best", "worst"]
    name: str
    caption: str
    jpeg: bytes

    def to_dict(self) -> dict[str, str]:
        """The fields as plain values; the picture as base64."""
        return {
            "kind": self.kind,
            "name": self.name,
            "caption": self.caption,
            "jpeg": base64.b64encode(self.jpeg).decode(),
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The metrics of a pipeline on a suite.

    Attributes:
        suite: name of the suite.
        settings: settings of the suite that affect the metrics.
        source: folder and list that the pairs come from.
        model: description of the pipeline, with a `name`.
        summary: metrics over all pairs: `auc` (percent by threshold; the key of 5.0 is "5"),
            `precision` and `recall` (percent), `matches` (mean number), `pairs`, `failures`,
            `unreadable` (numbers of pairs), and others of the suite.
        results: metrics of each pair, in the order of the suite.
        examples: pictures of the best and the worst pairs.
        command: command line that reproduces the metrics, or "".
    """

    suite: str
    settings: Mapping[str, Any]
    source: Mapping[str, str]
    model: Mapping[str, Any]
    summary: Mapping[str, Any]
    results: tuple[PairResult, ...]
    examples: tuple[Example, ...] = ()
    command: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; infinity and NaN become None."""
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
                "results": self.rows(),
                **({"examples": [e.to_dict() for e in self.examples]} if self.examples else {}),
            }
        )
        assert isinstance(plain, dict)
        return plain

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_dict()` as JSON.

        Raises:
            OutputError: the file cannot be written.
        """
        write_json(path, self.to_dict())

    def save_csv(self, path: str | os.PathLike[str]) -> None:
        """Write `rows()` as CSV.

        Raises:
            OutputError: the file cannot be written.
        """
        with atomic_write(path) as file:
            file.write(format_csv(self.rows()).encode())

    def rows(self) -> list[dict[str, Any]]:
        """The results of the pairs, each as one flat mapping."""
        return [_row(result) for result in self.results]

    def to_markdown(self) -> str:
        """All metrics as a Markdown table: a row for all pairs and one for each group."""
        name = str(self.model["name"])
        rows = [(f"{name}, {group}", summary) for group, summary in self._groups()]
        return markdown_table([(name, self.summary), *rows])

    def main_table(self) -> tuple[list[str], list[list[str]]]:
        """Headings and rows of the field's main figures, as text: all pairs, then each group."""
        keys = _MAIN_POSE if self.suite == "pose" else _MAIN
        columns = {h: c for h, c in _columns(self.summary).items() if c[0] in keys}
        lines = [("all", self.summary), *self._groups()]
        rows = [[name, *(_cell(line, *c) for c in columns.values())] for name, line in lines]
        return ["", *columns], rows

    def _groups(self) -> list[tuple[str, Mapping[str, Any]]]:
        return [(key, value) for key, value in self.summary.items() if "pairs" in _keys(value)]

    def worst(self, count: int) -> list[PairResult]:
        """The pairs with the largest errors, and among equal ones with the lowest precision."""

        def rank(result: PairResult) -> tuple[float, float, int]:
            return -result.metrics["error"], result.metrics["precision"], result.index

        return sorted(self.results, key=rank)[:count]

    def best(self, count: int) -> list[PairResult]:
        """The pairs without failure that have the smallest errors."""

        def rank(result: PairResult) -> tuple[float, float, int]:
            return result.metrics["error"], -result.metrics["precision"], result.index

        return sorted((r for r in self.results if not r.failure), key=rank)[:count]


def markdown_table(lines: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Summaries of one suite as a Markdown table.

    Args:
        lines: name and summary (see `Evaluation.summary`) of each row. A metric that only some
            summaries have is a column too.
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
    """Heading -> key of the summary, and the threshold if its values are by threshold."""
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
    return f"{value:.2f}" if key == "localization_error" else f"{value:.1f}"


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

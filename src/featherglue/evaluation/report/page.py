"""Assembly of a report: one self-contained HTML page."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from importlib import resources

from featherglue.errors import UsageError
from featherglue.evaluation.report.html_table import Result
from featherglue.evaluation.report.media import pictures_section
from featherglue.evaluation.report.speed_sections import benchmark_section, by_size, size_section
from featherglue.evaluation.report.suite_section import suite_section
from featherglue.io.html_page import write_html_page


def write_report(
    results: Sequence[Result],
    path: str | os.PathLike[str],
    *,
    title: str = "featherglue",
    baseline: str | None = None,
    pictures: Sequence[str | os.PathLike[str]] = (),
) -> None:
    """Write a report.

    Args:
        results: from `read_results`.
        path: the HTML file.
        title: heading of the page.
        baseline: name of the model that differences are shown to; None takes the first.
        pictures: further image files to show.

    Raises:
        UsageError: there are no results, or none has the name of the baseline.
        ImageError: a picture cannot be read.
        OutputError: the file cannot be written.
    """
    evaluations = [result for result in results if result["kind"] == "evaluation"]
    benchmarks = [result for result in results if result["kind"] == "benchmark"]
    if not results:
        raise UsageError("`results` is empty: there is nothing to report")
    names = [str(result["model"]["name"]) for result in evaluations]
    if baseline is not None and baseline not in names:
        raise UsageError(
            f"`baseline` {baseline!r} is not among the results; known: {', '.join(names)}"
        )
    sections = []
    for suite in dict.fromkeys(result["suite"] for result in evaluations):
        group = [result for result in evaluations if result["suite"] == suite]
        sections.append(suite_section(suite, group, benchmarks, baseline))
    for result in benchmarks:
        sections.extend(benchmark_section(part) for part in by_size(result))
    sections.append(size_section(benchmarks))
    if pictures:
        sections.append(pictures_section(pictures))
    sections.append(_origin_section(results))
    style = resources.files("featherglue.evaluation.report").joinpath("page.css").read_text()
    write_html_page(path, title, style, "".join(sections))


def _origin_section(results: Sequence[Result]) -> str:
    """The commands and the machines of the results."""
    items = []
    for result in results:
        command = result.get("command") or f"({result['path']})"
        items.append(f"<li><code>{html.escape(str(command))}</code></li>")
    machines = {
        json.dumps(result["machine"], indent=1) for result in results if "machine" in result
    }
    listed = "".join(f"<pre>{html.escape(machine)}</pre>" for machine in sorted(machines))
    return f"<section><h2>How it was measured</h2><ul>{''.join(items)}</ul>{listed}</section>"

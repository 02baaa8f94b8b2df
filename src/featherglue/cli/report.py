"""`featherglue report`: results of evaluations and benchmarks as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.evaluation.report import read_results, write_report


def report(
    results: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="JSON files of evaluate and benchmark.")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option("--title", help="Title of the page.")] = "featherglue",
    baseline: Annotated[
        str | None,
        typer.Option("--baseline", metavar="NAME", help="Model that differences are shown to."),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option("--picture", metavar="FILE", help="Picture to show. Can be repeated."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Write the results of evaluate and benchmark as one HTML page without other files.

    It has tables, curves, pictures of matches, the machine and the commands.
    """
    write_report(
        read_results(results), output, title=title, baseline=baseline, pictures=picture or ()
    )
    save_json({"output": str(output), "bytes": output.stat().st_size}, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(f"wrote {output}", markup=False)

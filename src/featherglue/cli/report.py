"""`featherglue report`: results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import STANDARD_OUTPUT, JsonFile, console, save_json
from featherglue.evaluation.report import read_results, write_report


def report(
    results: Annotated[list[Path], typer.Argument(help="JSON files of evaluate and benchmark.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="HTML file to write.")] = Path(
        "report.html"
    ),
    title: Annotated[str, typer.Option("--title", help="Title of the page.")] = "featherglue",
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Model to show differences to.")
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option("--picture", help="Picture to show; can be given several times."),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Write one self-contained HTML page: tables, curves, pictures, machine and commands."""
    write_report(
        read_results(results), output, title=title, baseline=baseline, pictures=picture or ()
    )
    save_json({"output": str(output), "bytes": output.stat().st_size}, json_file)
    if json_file != STANDARD_OUTPUT:
        console.print(f"wrote {output}", markup=False)

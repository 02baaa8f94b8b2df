"""`featherglue report`: results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featherglue.cli.common import Json, console, print_json
from featherglue.evaluation.report import read_results, write_report


def report(
    results: Annotated[list[Path], typer.Argument(help="JSON files of evaluate and benchmark.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    title: Annotated[str, typer.Option("--title")] = "featherglue",
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Show differences to this model.")
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option("--picture", help="A picture to show; may be given several times."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one self-contained HTML page: tables, curves, pictures, machine and commands."""
    write_report(
        read_results(results), output, title=title, baseline=baseline, pictures=picture or ()
    )
    if as_json:
        print_json({"output": str(output), "bytes": output.stat().st_size})
    else:
        console.print(f"wrote {output}", markup=False)

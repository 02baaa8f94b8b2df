"""Options of the commands that train."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from featherglue.cli.common import STANDARD_OUTPUT, console, one_line, save_json

DeviceName = Literal["auto", "cpu", "cuda"]
Minutes = Annotated[
    float, typer.Option("--minutes", min=0, help="Stop after this time; --resume continues.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in the output folder.")]
Device = Annotated[
    DeviceName,
    typer.Option("--device", help="Device to train on; auto is CUDA where it is available."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        help="Maximum number of threads of the networks; use 1 on a shared machine.",
    ),
]


def is_main_process() -> bool:
    """Whether this is the process that writes, of those that `torchrun` started."""
    return os.environ.get("RANK", "0") == "0"


def print_outputs(paths: Mapping[str, Path], json_file: str | None, **facts: str) -> None:
    """Print the written files.

    Args:
        paths: written files by kind.
        json_file: value of `--json`.
        facts: further entries of the JSON output.
    """
    save_json({name: str(path) for name, path in paths.items()} | facts, json_file)
    if json_file != STANDARD_OUTPUT:
        for path in paths.values():
            console.print(f"wrote {one_line(str(path))}", markup=False)

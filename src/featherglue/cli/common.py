"""Common options and output functions of the commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import cv2
import typer
from rich.console import Console

from featherglue.errors import UsageError
from featherglue.io.pairs import Pair, read_pairs

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)

STANDARD_INPUT = STANDARD_OUTPUT = "-"
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Maximum number of threads of the networks.")
]
Model = Annotated[
    str,
    typer.Option("--model", metavar="NAME|DIR", help="Name of a shipped model, or model folder."),
]
Masks = Annotated[
    Path | None,
    typer.Option(
        "--masks",
        metavar="DIR",
        help="Folder of masks: image.jpg.png is the mask of image.jpg; 0 is ignored.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Maximum number of processes; one per core by default."),
]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="Ray cluster that does the work: auto, or host:port.",
    ),
]
JsonFile = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="FILE|-",
        help="Write the result as JSON to this file; - is standard output.",
    ),
]
CsvFile = Annotated[
    str | None,
    typer.Option(
        "--csv",
        metavar="FILE|-",
        help="Write one line of CSV for each row of the result; - is standard output.",
    ),
]


def listed_folder(folder: Path | None) -> Path:
    """The folder of the images of a pair list: that of `--input-dir`, or the current one.

    Raises:
        UsageError: there is no such folder.
    """
    found = folder or Path()
    if not found.is_dir():
        raise UsageError(f"--input-dir: no folder {found}")
    return found


def read_listed_pairs(path: Path) -> list[Pair]:
    """The pairs of `--input-pairs`; those of standard input for `-`.

    Raises:
        PairListError: the list is unreadable, or a line is malformed.
    """
    return read_pairs(sys.stdin.buffer if str(path) == STANDARD_INPUT else path)


def join_sizes(arguments: list[str]) -> list[str]:
    """Arguments with `--resize 640 480` as one word, `--resize=640,480`, as the parser needs it."""
    joined: list[str] = []
    i = 0
    while i < len(arguments):
        if arguments[i] == "--":
            return joined + arguments[i:]
        if arguments[i] in ("--resize", "--image-size", "--size"):
            values: list[str] = []
            while i + 1 < len(arguments) and len(values) < 2 and _is_integer(arguments[i + 1]):
                values.append(arguments[i + 1])
                i += 1
            name = arguments[i - len(values)]
            joined.append(f"{name}={','.join(values)}" if values else name)
        else:
            joined.append(arguments[i])
        i += 1
    return joined


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdigit()


@contextmanager
def one_line_warnings(console: Console, *categories: type[Warning]) -> Iterator[None]:
    """Print each warning in the body as one line, like an error.

    Args:
        console: where to print.
        categories: warnings that are always shown; every `UserWarning` by default.
    """

    def show(message: Warning | str, *_: object, **__: object) -> None:
        console.print(f"warning: {one_line(str(message))}", markup=False, highlight=False)

    with warnings.catch_warnings():
        for category in categories or (UserWarning,):
            warnings.simplefilter("default", category)
        warnings.showwarning = show
        yield


def one_line(text: str) -> str:
    """The text with line breaks and other control characters as escape sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def limit_threads(threads: int | None) -> None:
    """Apply `--threads` to OpenCV, whose threads belong to the process; None changes nothing.

    Raises:
        ConfigError: more threads than this machine can run.
    """
    if threads is not None:
        from featherglue.options import checked

        cv2.setNumThreads(checked("threads", threads))


def save_json(data: Any, json_file: str | None) -> None:
    """Write plain values to the file of `--json`; without it do nothing.

    A command prints no other text if `json_file` is `STANDARD_OUTPUT`.

    Raises:
        OutputError: the file cannot be written.
    """
    if json_file == STANDARD_OUTPUT:
        from featherglue.io.files import json_text

        sys.stdout.write(json_text(data, sys.stdout.encoding or "ascii"))
        sys.stdout.flush()
    elif json_file is not None:
        from featherglue.io.files import write_json

        write_json(json_file, data)


def save_csv(rows: Sequence[Mapping[str, Any]], csv_file: str | None) -> None:
    """Write rows to the file of `--csv`; without it do nothing.

    Raises:
        OutputError: the file cannot be written.
    """
    if csv_file is None:
        return
    from featherglue.io.files import atomic_write
    from featherglue.io.tables import format_csv

    text = format_csv(rows)
    if csv_file == STANDARD_OUTPUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        with atomic_write(csv_file) as file:
            file.write(text.encode())


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table that fits the terminal: the first column is text and wraps."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    if title:
        console.print(title, markup=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column(head[0], overflow="fold")
    for heading in head[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console.print(table, soft_wrap=False)

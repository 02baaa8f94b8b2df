"""Options and printing that the commands share."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import cv2
import typer
from rich.console import Console

console = Console(highlight=False, soft_wrap=True)
error_console = Console(stderr=True, highlight=False, soft_wrap=True)

Model = Annotated[str, typer.Option("--model", help="A shipped model's name, or a folder.")]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads that the networks may use.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def join_sizes(arguments: list[str]) -> list[str]:
    """`--resize 640 480` as one argument, `--resize=640,480`, as the parser needs it."""
    joined: list[str] = []
    i = 0
    while i < len(arguments):
        if arguments[i] == "--":
            return joined + arguments[i:]
        if arguments[i] in ("--resize", "--image-size"):
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


def limit_threads(threads: int | None) -> None:
    """Apply --threads to OpenCV too, whose threads belong to the process."""
    if threads is not None:
        cv2.setNumThreads(threads)


def print_json(data: Any) -> None:
    """Plain values on standard output."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()

"""Files of one JSON value a line, each with a checksum, to which a process can append."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

from featherglue.io.json import parse_json


def checked_line(entry: dict[str, Any]) -> str:
    """A line with the values and their checksum, without a line break."""
    text = json.dumps(entry)
    return f"{zlib.crc32(text.encode()):08x} {text}"


def checked_entry(line: bytes) -> dict[str, Any]:
    """The values of a line.

    Raises:
        ValueError: the line is damaged, incomplete or has no checksum.
    """
    checksum, _, text = line.partition(b" ")
    if checksum.decode("ascii") != f"{zlib.crc32(text):08x}":
        raise ValueError("the checksum is wrong")
    entry = parse_json(text, finite=False)
    if not isinstance(entry, dict):
        raise ValueError("not a table")
    return entry


def read_lines(path: str | os.PathLike[str]) -> list[bytes]:
    """The lines of a file that are not empty; none if it is missing."""
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError:
        return []
    return [line for line in lines if line.strip()]

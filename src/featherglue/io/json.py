"""Reading of JSON from files, with limits of size, depth and numbers."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

MAX_SIZE = 1 << 28  # bytes
MAX_DEPTH = 50
_MAX_DIGITS = 300


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """Plain values of a JSON text.

    Args:
        text: text, or UTF-8 bytes.
        finite: refuse NaN and infinity, which Python writes into JSON.

    Raises:
        ValueError: the text is not JSON, is too large or too deeply nested, or has a number that
            is out of range.
    """
    if len(text) > MAX_SIZE:
        raise ValueError(f"{len(text)} bytes are too large")
    try:
        values = json.loads(
            text.decode("utf-8-sig") if isinstance(text, bytes) else text,
            parse_int=_integer,
            parse_float=_finite if finite else float,
            parse_constant=_refuse if finite else None,
        )
    except RecursionError:
        raise ValueError("too deeply nested") from None
    check_depth(values)
    return values


def read_json(path: str | os.PathLike[str], *, finite: bool = True) -> Any:
    """Plain values of a JSON file; see `parse_json`.

    Raises:
        OSError: the file cannot be read.
        ValueError: see `parse_json`.
    """
    path = Path(path)
    if path.stat().st_size > MAX_SIZE:
        raise ValueError(f"{path.stat().st_size} bytes are too large")
    return parse_json(path.read_bytes(), finite=finite)


def check_depth(values: Any) -> None:
    """Check that lists and tables are nested at most `MAX_DEPTH` times.

    Raises:
        ValueError: they are nested more deeply.
    """
    level: list[Any] = [values]
    for _ in range(MAX_DEPTH):
        level = [item for value in level for item in _items(value)]
        if not level:
            return
    raise ValueError("too deeply nested")


def _items(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:20]} is out of range")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a number of JSON")

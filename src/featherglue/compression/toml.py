"""Plain values as TOML, which Python reads but does not write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from featherglue.errors import ConfigError


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """A table of plain values, a line for each key.

    Raises:
        ConfigError: a value that TOML has no word for.
    """
    return [f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items()]


def _toml_key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else _toml(key)


def _toml(value: Any) -> str:
    """A plain value on one line; strings, numbers and truth are written as in JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(toml_lines(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if text in ("null", "NaN", "Infinity", "-Infinity"):
        raise ConfigError(f"a recipe file cannot hold {value!r}: leave the key out")
    return text

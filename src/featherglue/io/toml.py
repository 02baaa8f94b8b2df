"""Reading and writing of TOML files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherglue.errors import ConfigError
from featherglue.io.json import check_depth

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MAX_SIZE = 1_000_000  # bytes


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: the file cannot be read, is not valid TOML, or is too large or too deeply
            nested.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MAX_SIZE:
            raise ConfigError(f"{path}: larger than {MAX_SIZE // 1_000_000} MB")
        values = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
        check_depth(values)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except RecursionError:
        raise ConfigError(f"{path}: not valid TOML (too deeply nested)") from None
    except ValueError as error:  # from UTF-8, TOML and integers of thousands of digits
        raise ConfigError(f"{path}: not valid TOML ({error})") from None
    return values


def toml_lines(table: Mapping[str, Any]) -> list[str]:
    """Format a table, one line for each key.

    Args:
        table: strings, numbers, bools, and lists and dicts of them.

    Raises:
        ConfigError: TOML cannot represent a value, such as None or NaN.
    """
    return [f"{_toml_key(key)} = {_toml(value)}" for key, value in table.items()]


def _toml_key(key: str) -> str:
    bare = key.replace("_", "").replace("-", "")
    return key if bare.isascii() and bare.isalnum() else _toml(key)


def _toml(value: Any) -> str:
    """Format a value on one line; strings, numbers and bools have the syntax of JSON."""
    if isinstance(value, dict):
        return "{" + ", ".join(toml_lines(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if text in ("null", "NaN", "Infinity", "-Infinity"):
        raise ConfigError(f"TOML cannot represent {value!r}; leave the key out")
    return text

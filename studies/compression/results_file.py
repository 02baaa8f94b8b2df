"""Reading of results.json: rows and parts of earlier runs on the same dense model and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherglue.io.json import read_json

VERSION = 2


def upgraded(path: Path, common: Mapping[str, Any]) -> dict[str, Any]:
    """Return the stored results, or {} if there are none or they have other inputs.

    Args:
        path: the file.
        common: inputs that all rows share.
    """
    try:
        stored = read_json(path, finite=False)
        if stored["format_version"] != VERSION:
            return {}
        same = {name: stored[name] for name in common} == dict(common)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}  # another error of the disk must not discard the rows
    return dict(stored) if same else {}


def kept_rows(path: Path, common: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the rows of earlier runs by name. Their models need not exist any more."""
    return {row["name"]: row for row in upgraded(path, common).get("rows", [])}

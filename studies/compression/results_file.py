"""Reading of results.json: rows and parts of earlier runs on the same dense model and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from featherglue.io.json import read_json

VERSION = 2
# Other calibration photographs make a recipe with a budget choose slightly other sizes.
MACS_TOLERANCE = 0.02


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


def keep_latency(row: dict[str, Any], before: Mapping[str, Any] | None) -> None:
    """Copy the latencies of an earlier model of the same recipe to a row without them.

    The time depends on the architecture only. Models whose MACs differ by more than the tolerance
    have no common time.
    """
    if row["ms"] or before is None or not before["ms"]:
        return
    if abs(before["macs"] / row["macs"] - 1) <= MACS_TOLERANCE:
        row["ms"] = before["ms"]
        row["origin"]["latency"] = before["origin"]["latency"] | {"remade": True}

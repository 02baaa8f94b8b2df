"""Reading and checking the JSON files of `evaluate` and `benchmark`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featherglue.errors import ReportError
from featherglue.io.json import read_json

FORMAT_VERSION = 1
_NUMBER = (int, float)
_OPTIONAL_NUMBER = (int, float, type(None))
_MAX_NUMBER = 1e18  # far above every time, size and metric; figures of larger numbers overflow
# Keys and their types. A list holds the type of its items; a key that ends in "?" may be missing.
_TIMES = {"median_ms": _NUMBER, "p95_ms": _NUMBER}
_COUNT = (int, type(None))
_SCHEMAS: dict[str, dict[str, Any]] = {
    "evaluation": {
        "suite": str,
        "model": {"name": str, "extractor?": {"max_keypoints?": _COUNT}, "max_keypoints?": _COUNT},
        "settings": {},
        "auc": {},
        "pairs": int,
        "results": [{"error": _OPTIONAL_NUMBER}],
    },
    "benchmark": {
        "image_size": [int],
        "repetitions": int,
        "machine": {"processor": str, "cores": int, "flags": [str]},
        "rows": [
            {
                "label": str,
                "max_keypoints": int,
                "stages": {},
                "end_to_end": _TIMES,
                "image_size?": [int],
                "macs?": _NUMBER,
                "bytes_on_disk?": _NUMBER,
                "peak_bytes?": _NUMBER,
            }
        ],
    },
}


def read_results(paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
    """Read results and check that one report can hold them.

    Results of one suite must have equal settings and pairs.

    Raises:
        ReportError: a file cannot be read, is not a result, lacks a key or has a value of the
            wrong type, or was written by a newer version; or two results of one suite cannot be
            compared. The message names the file and the key.
    """
    results = [_read(Path(path)) for path in paths]
    seen: dict[str, dict[str, Any]] = {}
    for result in results:
        if result["kind"] != "evaluation":
            continue
        first = seen.setdefault(result["suite"], result)
        for key in ("settings", "pairs"):
            if first[key] != result[key]:
                raise ReportError(
                    f"{first['path']} and {result['path']} differ in {key}: their metrics cannot "
                    "be compared; evaluate both with equal settings, or write two reports"
                )
        if [row.get("name") for row in first["results"]] != [
            row.get("name") for row in result["results"]
        ]:
            raise ReportError(
                f"{first['path']} and {result['path']} have different pairs: their metrics "
                "cannot be compared"
            )
    _make_names_unique(results)
    return results


def _make_names_unique(results: Sequence[dict[str, Any]]) -> None:
    """Add the name of the file to models of one suite that have equal names."""
    evaluations = [result for result in results if result["kind"] == "evaluation"]
    names = [(result["suite"], result["model"]["name"]) for result in evaluations]
    for result, name in zip(evaluations, names, strict=True):
        if names.count(name) > 1:
            result["model"]["name"] = f"{name[1]} ({Path(result['path']).stem})"


def _read(path: Path) -> dict[str, Any]:
    try:
        result = read_json(path)
    except OSError as error:
        raise ReportError(f"{path}: cannot be read ({error.strerror or error})") from None
    except ValueError as error:
        raise ReportError(f"{path}: not JSON ({error})") from None
    kind = result.get("kind") if isinstance(result, dict) else None
    schema = _SCHEMAS.get(kind) if isinstance(kind, str) else None
    if schema is None or not isinstance(result.get("format_version"), int):
        raise ReportError(f"{path}: not a result of featherglue evaluate or benchmark")
    if result["format_version"] > FORMAT_VERSION:
        raise ReportError(
            f"{path}: written by a newer featherglue ({result.get('featherglue')}): upgrade"
        )
    _check(result, schema, str(path), "")
    if kind == "evaluation":
        _check_evaluation(result, path)
    else:
        _check_benchmark(result, path)
    return {**result, "path": str(path)}


def _check_evaluation(result: dict[str, Any], path: Path) -> None:
    for threshold, value in result["auc"].items():
        if not _is_threshold(threshold) or not _has_type(value, _OPTIONAL_NUMBER):
            raise ReportError(f"{path}: `auc` must map positive thresholds to numbers")
    if not result["auc"] or not result["results"]:
        raise ReportError(f"{path}: `auc` and `results` must not be empty")


def _check_benchmark(result: dict[str, Any], path: Path) -> None:
    sizes = [result["image_size"], *(row.get("image_size", [1, 1]) for row in result["rows"])]
    if any(len(size) != 2 for size in sizes) or not result["rows"]:
        raise ReportError(f"{path}: `image_size` needs two values and `rows` at least one")
    for i, row in enumerate(result["rows"]):
        for name, times in row["stages"].items():
            _check(times, {"median_ms": _NUMBER}, str(path), f"rows[{i}].stages.{name[:80]}")


def _is_threshold(text: str) -> bool:
    try:
        return 0 < float(text) <= _MAX_NUMBER
    except ValueError:
        return False


def _has_type(value: Any, expected: type | tuple[type, ...]) -> bool:
    """Whether a value has a type; numbers must be in a range that figures can show."""
    if isinstance(value, bool) or not isinstance(value, expected):
        return False
    return not isinstance(value, _NUMBER) or abs(value) <= _MAX_NUMBER


def _check(value: Any, schema: Any, path: str, key: str) -> None:
    """Raise ReportError unless a value has the types and the keys of a schema."""
    expected = type(schema) if isinstance(schema, (dict, list)) else schema
    if not _has_type(value, expected):
        names = {dict: "a mapping", list: "a list", str: "a string", int: "an integer"}
        raise ReportError(f"{path}: `{key}` must be {names.get(expected, 'a number')}")
    if isinstance(schema, dict):
        for entry, part in schema.items():
            name = entry.removesuffix("?")
            inner = f"{key}.{name}" if key else name
            if name in value:
                _check(value[name], part, path, inner)
            elif name == entry:
                raise ReportError(f"{path}: `{inner}` is missing")
    elif isinstance(schema, list):
        for i, item in enumerate(value):
            _check(item, schema[0], path, f"{key}[{i}]")

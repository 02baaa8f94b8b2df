"""Reading of JSON, of lines with checksums, and of safetensors files, with limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from featherglue.io.json import parse_json, read_json
from featherglue.io.json_lines import checked_entry, checked_line, read_lines
from featherglue.io.safetensors_file import parse_safetensors


@pytest.mark.parametrize("value", [None, True, "é", 1, -2.5, 10**200, [1, [2]], {"a": {"b": []}}])
def test_values_are_read(tmp_path: Path, value: Any) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value))
    assert read_json(path) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nested|Expecting"),
        ("[" * 100_000 + "]" * 100_000, "too deeply nested"),
        ("[" * 60 + "]" * 60, "too deeply nested"),
        ('{"a":' * 60 + "1" + "}" * 60, "too deeply nested"),
        ("9" * 5000, "5000 digits"),
        ("1e400", "out of range"),
        ("NaN", "NaN is not a number"),
        ("-Infinity", "not a number"),
        (b"\xff\xfe", "decode"),
        ("{", "Expecting"),
    ],
)
def test_other_texts_are_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_infinity_can_be_allowed() -> None:
    assert parse_json("[Infinity, 1e400]", finite=False) == [float("inf")] * 2


def test_lines_with_checksums(tmp_path: Path) -> None:
    entry = {"key": "ü", "value": float("inf")}
    line = checked_line(entry)
    path = tmp_path / "a.jsonl"
    path.write_text(f"\n{line}\n\n{line[:-3]}\n")
    first, second = read_lines(path)
    assert checked_entry(first) == entry
    for damaged in (second, first.replace(b"key", b"kex"), b"", b"{}", b"\xff" * 20):
        with pytest.raises(ValueError):
            checked_entry(damaged)
    assert read_lines(tmp_path / "missing") == []


def test_safetensors_of_every_dtype() -> None:
    arrays = {
        np.dtype(code).name: np.arange(6).reshape(2, 3).astype(code)
        for code in ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
    }
    found = parse_safetensors(safetensors.numpy.save(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_number_formats_without_numpy_are_named(dtype: str) -> None:
    size = 2 if dtype == "BF16" else 1
    header = json.dumps({"t": {"dtype": dtype, "shape": [1], "data_offsets": [0, size]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(size)
    with pytest.raises(ValueError, match=f"number format {dtype}"):
        parse_safetensors(data)
    with pytest.raises(ValueError, match="not a safetensors file"):
        parse_safetensors(data[:-1])

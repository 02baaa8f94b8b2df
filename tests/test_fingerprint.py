"""Fingerprints tell values, files and code apart, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from featherglue.errors import UsageError
from featherglue.fingerprint import (
    array_fingerprint,
    code_fingerprint,
    file_fingerprint,
    fingerprint,
)


def test_equal_values_have_equal_fingerprints() -> None:
    first = fingerprint({"a": 1, "b": [1.5, None, True]}, "x")
    assert first == fingerprint({"b": [1.5, None, True], "a": 1}, "x")
    assert len(first) == 16
    assert int(first, 16) >= 0
    assert first == fingerprint({"a": np.int64(1), "b": [np.float64(1.5), None, True]}, "x")


def test_the_same_in_another_process() -> None:
    code = "from featherglue.fingerprint import fingerprint; print(fingerprint({'a': [1, 'é']}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == fingerprint({"a": [1, "é"]})


def test_arrays_count_with_type_and_shape() -> None:
    array = np.arange(6, dtype=np.int32)
    others = [array.astype(np.int64), array.reshape(2, 3), array[::-1]]
    assert len({fingerprint(a) for a in (array, *others)}) == 4
    assert array_fingerprint({"a": array, "b": others[0]}) == array_fingerprint(
        {"b": others[0], "a": array.copy()}
    )


def test_other_values_are_rejected() -> None:
    with pytest.raises(UsageError, match="plain values"):
        fingerprint(object())


def test_files_by_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b")
    (tmp_path / "b").write_bytes(b"x" * 2_999_999 + b"y")
    assert file_fingerprint(tmp_path / "a") != file_fingerprint(tmp_path / "b")


def test_the_code_fingerprint_covers_the_whole_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import featherglue.fingerprint as module

    before = code_fingerprint()
    root = tmp_path / "featherglue"
    for path in Path(module.__file__).parent.rglob("*.py"):
        copy = root / path.relative_to(Path(module.__file__).parent)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    monkeypatch.setattr(module, "__file__", str(root / "fingerprint.py"))
    code_fingerprint.cache_clear()
    assert code_fingerprint() == before
    for changed in ("models/superpoint.py", "artifact/huffman.py", "matching/nms.py"):
        with (root / changed).open("a") as file:
            file.write("# changed\n")
        code_fingerprint.cache_clear()
        assert code_fingerprint() != before
        before = code_fingerprint()
    code_fingerprint.cache_clear()

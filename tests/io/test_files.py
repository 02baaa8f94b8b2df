"""Atomic writes of files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.errors import OutputError
from featherglue.io.files import atomic_write, write_image, write_json, write_npz


def test_a_file_appears_only_after_success(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    with atomic_write(path) as file:
        file.write(b"one")
        assert not path.exists()
    assert path.read_bytes() == b"one"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="boom"), atomic_write(path) as file:
        file.write(b"half of the ne")
        raise RuntimeError("boom")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "a.json", tmp_path / "folder"):
        with pytest.raises(OutputError, match="cannot be written") as caught:
            write_json(path, {})
        assert str(path) in str(caught.value)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), atomic_write(tmp_path / "a.bin"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_npz_files_hold_their_arrays(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.array([0.5, np.pi], np.float32)}
    path = tmp_path / "a.npz"
    write_npz(path, arrays)
    with np.load(path) as read:
        assert set(read.files) == {"a", "b"}
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype
            np.testing.assert_array_equal(read[name], array)


def test_json_is_indented_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"name": "grün", "values": [1, 2]})
    text = path.read_text(encoding="utf-8")
    assert "grün" in text
    assert text.endswith("}\n")
    assert json.loads(text) == {"name": "grün", "values": [1, 2]}


def test_images_are_written_from_rgb(tmp_path: Path, color: np.ndarray, gray: np.ndarray) -> None:
    write_image(tmp_path / "c.png", color)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "c.png"))[..., ::-1], color)
    write_image(tmp_path / "g.png", gray)
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "g.png"), -1), gray)


@pytest.mark.parametrize("name", ["a.xyz", "a", "a.txt"])
def test_an_unknown_image_format_is_an_output_error(
    tmp_path: Path, name: str, gray: np.ndarray
) -> None:
    with pytest.raises(OutputError, match=r"use \.png or \.jpg"):
        write_image(tmp_path / name, gray)
    assert list(tmp_path.iterdir()) == []

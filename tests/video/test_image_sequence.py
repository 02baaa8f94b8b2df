"""Frames of image files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.errors import ImageError, UsageError
from featherglue.video import SourceError, open_source

MakeFolder = Callable[..., Path]


def test_a_folder_in_numerical_order(make_folder: MakeFolder) -> None:
    pictures = [np.full((16, 24), 10 * i, np.uint8) for i in range(12)]
    folder = make_folder(pictures)
    (folder / "notes.txt").write_text("no image")
    with open_source(str(folder), rate=5) as source:
        assert (source.live, source.num_frames, source.rate) == (False, 12, 5)
        frames = list(source)
    assert [int(frame.image[0, 0]) for frame in frames] == [10 * i for i in range(12)]
    assert [frame.name for frame in frames[9:]] == ["9.png", "10.png", "11.png"]
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(12) / 5)


def test_patterns_lists_and_single_images(make_folder: MakeFolder) -> None:
    folder = make_folder([np.full((16, 24), 10 * i, np.uint8) for i in range(12)])
    cv2.imwrite(str(folder / "x1.png"), np.zeros((16, 24), np.uint8))

    def names(source: object) -> list[str]:
        with open_source(source) as frames:
            return [frame.name for frame in frames]

    numbers = [f"{i}.png" for i in range(12)]
    assert names(f"{folder}/[0-9]*.png") == numbers
    assert names(f"{folder}/%d.png") == numbers
    assert names(f"{folder}/%04d.png") == numbers
    assert names(folder / "3.png") == ["3.png"]
    assert names([folder / "7.png", str(folder / "2.png")]) == ["7.png", "2.png"]
    odd = folder / "a[1].png"
    cv2.imwrite(str(odd), np.zeros((16, 24), np.uint8))
    assert names(odd) == ["a[1].png"]
    with pytest.raises(SourceError, match="no image matches this pattern"):
        open_source(f"{folder}/*.jpg")


def test_damaged_images_are_skipped_and_reported(
    make_folder: MakeFolder, moving: list[np.ndarray]
) -> None:
    folder = make_folder(moving[:4])
    (folder / "1.png").write_bytes(b"nothing")
    with open_source(folder) as source:
        assert [frame.number for frame in source] == [0, 2, 3]
    assert len(source.problems) == 1
    assert "1.png" in source.problems[0]
    for path in folder.iterdir():
        path.write_bytes(b"nothing")
    with (
        pytest.raises(SourceError, match=r"no frame could be read: .*0\.png"),
        open_source(folder) as source,
    ):
        list(source)


def test_a_truncated_image_is_reported_once(
    make_folder: MakeFolder, moving: list[np.ndarray], capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(moving[:3])
    path = folder / "1.png"
    path.write_bytes(path.read_bytes()[:2000])
    with open_source(folder) as source:
        assert len(list(source)) == 2
    assert len(source.problems) == 1
    assert capfd.readouterr().err == ""


def test_stopping_before_damaged_images(make_folder: MakeFolder, moving: list[np.ndarray]) -> None:
    folder = make_folder(moving[:4])
    for name in ("1.png", "2.png"):
        (folder / name).write_bytes(b"nothing")
    with open_source(folder) as source:
        source.stop()
        assert list(source) == []
    assert source.problems == []


def test_empty_folders_and_lists(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="no images in this folder"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match="list of images is empty"):
        open_source([])
    with pytest.raises(UsageError, match="a video must be the only source"):
        open_source([tmp_path / "a.png", tmp_path / "b.mp4"])

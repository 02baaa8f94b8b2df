"""Frames of video files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featherglue.video import SourceError, open_source

MakeVideo = Callable[..., Path]


@pytest.mark.parametrize("name", ["walk.avi", "walk.mp4"])
def test_every_frame_of_a_video(name: str, moving: list[np.ndarray], make_video: MakeVideo) -> None:
    with open_source(make_video(moving, name)) as source:
        assert (source.live, source.num_frames, source.rate) == (False, 8, 25.0)
        frames = list(source)
    assert [frame.number for frame in frames] == list(range(8))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(8) / 25, atol=2e-3)
    for frame, picture in zip(frames, moving, strict=True):
        assert frame.image.shape == picture.shape
        assert frame.image.dtype == np.uint8
        assert np.abs(frame.image.astype(int) - picture).mean() < 8
    assert source.problems == []
    assert source.num_delivered == 8
    assert all(frame.read_ms > 0 for frame in frames)


def test_skipped_frames_and_another_rate(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    with open_source(make_video(moving), skip=3, rate=10) as source:
        assert source.num_frames == 3
        frames = list(source)
    assert [frame.number for frame in frames] == [0, 3, 6]
    np.testing.assert_allclose([frame.time for frame in frames], [0, 0.3, 0.6])
    assert np.abs(frames[1].image.astype(int) - moving[3]).mean() < 8


def test_a_truncated_video(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    path = make_video(moving * 3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with open_source(path) as source:
        frames = list(source)
    assert 8 <= len(frames) < 16
    assert source.problems == [
        f"{path}: ends after {len(frames)} of 24 frames; truncated or damaged"
    ]


def test_stopping_ends_after_the_frame(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    with open_source(make_video(moving)) as source:
        for frame in source:
            if frame.number == 2:
                source.stop()
    assert source.num_delivered == 3
    assert source.problems == []


def test_files_that_are_no_videos(tmp_path: Path) -> None:
    for name, content, message in (
        ("a.mp4", b"this is text", "damaged, or not a video that OpenCV can read"),
        ("b.avi", b"", "the file is empty"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError, match=f"{name}: {message}"):
            open_source(tmp_path / name)
    with pytest.raises(SourceError, match=r"none\.mp4: no such file or folder"):
        open_source(tmp_path / "none.mp4")


def test_a_video_without_frames(moving: list[np.ndarray], make_video: MakeVideo) -> None:
    path = make_video(moving)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"movi") + 4])
    with pytest.raises(SourceError, match=r"walk\.avi: "), open_source(path) as source:
        list(source)

"""Files of tracks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from featherglue.errors import OutputError, UsageError
from featherglue.video import Tracks, TrackWriter


def make_tracks(ids: list[int], lengths: list[int]) -> Tracks:
    positions = np.stack((np.array(ids, np.float32) + 0.25, -np.ones(len(ids), np.float32)), 1)
    return Tracks(
        ids=np.array(ids, np.int64),
        lengths=np.array(lengths, np.int64),
        positions=positions,
        trails=positions[:, None],
    )


# Track 0 has four frames, 1 two, 2 three, 3 one, 4 three (at the end), 5 two (at the end).
RUN = [
    make_tracks([0, 1], [1, 1]),
    make_tracks([0, 1, 2], [2, 2, 1]),
    make_tracks([2, 0], [2, 3]),
    make_tracks([0, 2, 3, 4], [4, 3, 1, 1]),
    make_tracks([4, 5], [2, 1]),
    make_tracks([4, 5], [3, 2]),
]


def expected(min_track_length: int) -> list[tuple[int, int]]:
    long = {0: 4, 1: 2, 2: 3, 3: 1, 4: 3, 5: 2}
    return [
        (10 * frame, int(track))
        for frame, tracks in enumerate(RUN)
        for track in tracks.ids
        if long[int(track)] >= min_track_length
    ]


@pytest.mark.parametrize("min_track_length", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_tracks_of_the_minimum_length_are_written(
    min_track_length: int, suffix: str, tmp_path: Path
) -> None:
    path = tmp_path / "new" / f"tracks.{suffix}"
    with TrackWriter(path, min_track_length) as writer:
        for i, tracks in enumerate(RUN):
            writer.add(10 * i, tracks)
        assert not path.exists()
    if suffix == "npz":
        with np.load(path) as arrays:
            columns = {name: arrays[name] for name in arrays}
        assert {name: column.dtype.str for name, column in columns.items()} == {
            "frame": "<i4",
            "track": "<i8",
            "x": "<f4",
            "y": "<f4",
        }
        rows = np.stack([columns[name].astype(float) for name in ("frame", "track", "x", "y")], 1)
    else:
        header, *lines = path.read_text().splitlines()
        assert header == "frame,track,x,y"
        rows = np.array([line.split(",") for line in lines], float).reshape(-1, 4)
    assert [(int(frame), int(track)) for frame, track in rows[:, :2]] == expected(min_track_length)
    np.testing.assert_allclose(rows[:, 2], rows[:, 1] + 0.25)
    np.testing.assert_allclose(rows[:, 3], -1)
    assert writer.num_rows == len(rows)
    assert writer.num_tracks == len(set(rows[:, 1]))
    assert [path.name for path in path.parent.iterdir()] == [path.name]


def test_memory_is_bounded(tmp_path: Path) -> None:
    """The number of pending rows depends on the minimum length only."""
    with TrackWriter(tmp_path / "tracks.npz", 3) as writer:
        for i in range(3000):
            start = i // 10 * 10  # ten frames each
            ids = np.arange(start * 20, start * 20 + 200)
            tracks = make_tracks([0], [1])
            tracks = dataclasses.replace(
                tracks,
                ids=ids,
                lengths=np.full(200, i - start + 1),
                positions=np.zeros((200, 2), np.float32),
            )
            writer.add(i, tracks)
            assert len(writer._pending) < 3
            assert len(writer._long) <= 400
    with np.load(tmp_path / "tracks.npz") as arrays:
        assert arrays["frame"].shape == (600_000,)
        assert np.all(np.diff(arrays["frame"]) >= 0)
    assert (tmp_path / "tracks.npz").stat().st_size < 1_500_000


def test_an_error_keeps_the_tracks(tmp_path: Path) -> None:
    path = tmp_path / "tracks.csv"
    with pytest.raises(KeyError), TrackWriter(path, 2) as writer:
        for i, tracks in enumerate(RUN[:3]):
            writer.add(i, tracks)
        raise KeyError
    assert len(path.read_text().splitlines()) == 1 + 7
    writer.close()


def test_without_a_frame_no_file_is_written(tmp_path: Path) -> None:
    with TrackWriter(tmp_path / "tracks.npz"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_unwritable_outputs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.npz or \.csv"):
        TrackWriter(tmp_path / "tracks.txt")
    with pytest.raises(UsageError, match="`min_track_length`"):
        TrackWriter(tmp_path / "tracks.npz", 0)
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    for path in (tmp_path / "file" / "tracks.npz", tmp_path / "folder.npz"):
        with pytest.raises(OutputError, match="cannot be written"):
            TrackWriter(path)

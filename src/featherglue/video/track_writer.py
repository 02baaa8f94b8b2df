"""Writing tracks in constant memory, through a temporary file."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import OutputError, UsageError
from featherglue.io.files import atomic_write
from featherglue.video.tracking import Tracks

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = np.dtype([("frame", "<i4"), ("track", "<i8"), ("x", "<f4"), ("y", "<f4")])
SUFFIXES = (".npz", ".csv")
_CHUNK = 1 << 16  # rows


class TrackWriter:
    """Writes tracks as rows (frame, track, x, y), sorted by frame.

    An npz file has the columns as arrays (R,): `frame` int32, `track` int64, `x` and `y` float32 in
    pixels. A csv file has them under a header. The file appears when the writer is closed, even
    after an error; without a frame no file is written.

    Args:
        path: file that ends in .npz or .csv.
        min_track_length: minimum number of frames of a track; shorter ones are not written.

    Attributes:
        path: the file.
        num_rows: number of rows so far.
        num_tracks: number of tracks so far.

    Raises:
        UsageError: another suffix, or a length below 1.
        OutputError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], min_track_length: int = 3) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: tracks are written as {' or '.join(SUFFIXES)}")
        if min_track_length < 1:
            raise UsageError(f"`min_track_length` must be at least 1, not {min_track_length}")
        self.num_rows = self.num_tracks = self._num_frames = 0
        self._min_length = min_track_length
        self._pending: deque[NDArray[np.void]] = deque()
        self._last: NDArray[np.int64] = np.zeros(0, np.int64)
        self._long: set[int] = set()  # tracks of the minimum length with pending rows
        self._ended: deque[list[int]] = deque()  # long tracks that ended, by frame
        if self.path.is_dir():
            raise OutputError(f"{path}: cannot be written, this is a folder")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary: IO[bytes] | None = tempfile.TemporaryFile(  # noqa: SIM115 (closed by `close`)
                dir=self.path.parent
            )
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None

    def add(self, frame: int, tracks: Tracks) -> None:
        """Add the tracks through the frame with this number."""
        self._num_frames += 1
        rows = np.empty(len(tracks), ROW)
        rows["frame"], rows["track"] = frame, tracks.ids
        rows["x"], rows["y"] = tracks.positions.T
        reached = tracks.ids[tracks.lengths == self._min_length].tolist()
        self.num_tracks += len(reached)
        self._long.update(reached)
        ended = np.setdiff1d(self._last, tracks.ids, assume_unique=True)
        self._ended.append([track for track in ended.tolist() if track in self._long])
        self._pending.append(rows)
        self._last = tracks.ids
        if len(self._pending) >= self._min_length:
            self._write_oldest()

    def _write_oldest(self) -> None:
        """Write the pending rows of the oldest frame; its long tracks are known by now."""
        assert self._temporary is not None
        # A track that ended before this frame has no pending rows.
        self._long.difference_update(self._ended.popleft())
        rows = self._pending.popleft()
        rows = rows[[track in self._long for track in rows["track"].tolist()]]
        self.num_rows += len(rows)
        try:
            self._temporary.write(rows.tobytes())
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Write the file. Can be called again.

        Raises:
            OutputError: the file cannot be written.
        """
        if self._temporary is None:
            return
        temporary = self._temporary
        try:
            while self._pending:
                self._write_oldest()
            if self._num_frames:
                self._write()
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self._temporary = None
            temporary.close()

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot be written ({error.strerror or error})")

    def _write(self) -> None:
        with atomic_write(self.path) as file:
            if self.path.suffix.lower() == ".csv":
                self._write_csv(file)
            else:
                self._write_npz(file)

    def _chunks(self) -> Iterator[NDArray[np.void]]:
        assert self._temporary is not None
        self._temporary.seek(0)
        for start in range(0, self.num_rows, _CHUNK):
            count = min(_CHUNK, self.num_rows - start)
            yield np.frombuffer(self._temporary.read(count * ROW.itemsize), ROW)

    def _write_csv(self, file: IO[bytes]) -> None:
        file.write(b"frame,track,x,y\n")
        for rows in self._chunks():
            lines = (f"{frame},{track},{x:.3f},{y:.3f}\n" for frame, track, x, y in rows.tolist())
            file.write("".join(lines).encode())

    def _write_npz(self, file: IO[bytes]) -> None:
        assert ROW.names is not None
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name in ROW.names:
                with archive.open(f"{name}.npy", "w", force_zip64=True) as column:
                    header = {
                        "descr": ROW[name].str,
                        "fortran_order": False,
                        "shape": (self.num_rows,),
                    }
                    np.lib.format.write_array_header_1_0(column, header)
                    for rows in self._chunks():
                        column.write(np.ascontiguousarray(rows[name]).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

"""Writing tracks: rows go to a scratch file as they come, so that memory stays flat."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import OutputError, UsageError
from featherglue.io.files import atomic
from featherglue.video.tracking import Tracks

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = np.dtype([("frame", "<i4"), ("track", "<i8"), ("x", "<f4"), ("y", "<f4")])
SUFFIXES = (".npz", ".csv")
_CHUNK = 1 << 16  # rows


class TrackWriter:
    """Writes the tracks of at least `min_track_length` frames as rows frame, track, x, y.

    Rows are sorted by frame. An npz holds the columns as arrays (R,): `frame` int32, `track` int64,
    `x` and `y` float32 pixels; a csv has them under a header. The file appears when the writer
    closes, and holds what came until then; if no frame came, there is none.

    Args:
        path: ends in .npz or .csv.
        min_track_length: a row is held back until its track has this number of frames.

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
        self.rows = self.tracks = self._frames = 0
        self._min_length = min_track_length
        self._waiting: deque[NDArray[np.void]] = deque()
        self._last: NDArray[np.int64] = np.zeros(0, np.int64)
        self._long: set[int] = set()  # tracks that reached the length, while rows of theirs wait
        self._ended: deque[list[int]] = deque()  # of these, those that ended, by frame
        if self.path.is_dir():
            raise OutputError(f"{path}: cannot be written, it is a folder")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._scratch: IO[bytes] | None = tempfile.TemporaryFile(  # noqa: SIM115 (closed by `close`)
                dir=self.path.parent
            )
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None

    def add(self, frame: int, tracks: Tracks) -> None:
        """Take the tracks through the frame with this number."""
        self._frames += 1
        rows = np.empty(len(tracks), ROW)
        rows["frame"], rows["track"] = frame, tracks.ids
        rows["x"], rows["y"] = tracks.positions.T
        reached = tracks.ids[tracks.lengths == self._min_length].tolist()
        self.tracks += len(reached)
        self._long.update(reached)
        ended = np.setdiff1d(self._last, tracks.ids, assume_unique=True)
        self._ended.append([track for track in ended.tolist() if track in self._long])
        self._waiting.append(rows)
        self._last = tracks.ids
        if len(self._waiting) >= self._min_length:
            self._write_oldest()

    def _write_oldest(self) -> None:
        """Write the rows of the oldest frame that waits: which tracks are long is known by now."""
        assert self._scratch is not None
        # What had ended by this frame has no row left to write.
        self._long.difference_update(self._ended.popleft())
        rows = self._waiting.popleft()
        rows = rows[[track in self._long for track in rows["track"].tolist()]]
        self.rows += len(rows)
        try:
            self._scratch.write(rows.tobytes())
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Write the file. Can be called again.

        Raises:
            OutputError: it cannot be written.
        """
        if self._scratch is None:
            return
        scratch = self._scratch
        try:
            while self._waiting:
                self._write_oldest()
            if self._frames:
                self._write()
        except OSError as error:
            raise self._failed(error) from None
        finally:
            self._scratch = None
            scratch.close()

    def _failed(self, error: OSError) -> OutputError:
        return OutputError(f"{self.path}: cannot be written ({error.strerror or error})")

    def _write(self) -> None:
        with atomic(self.path) as file:
            if self.path.suffix.lower() == ".csv":
                self._write_csv(file)
            else:
                self._write_npz(file)

    def _chunks(self) -> Iterator[NDArray[np.void]]:
        assert self._scratch is not None
        self._scratch.seek(0)
        for start in range(0, self.rows, _CHUNK):
            count = min(_CHUNK, self.rows - start)
            yield np.frombuffer(self._scratch.read(count * ROW.itemsize), ROW)

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
                        "shape": (self.rows,),
                    }
                    np.lib.format.write_array_header_1_0(column, header)
                    for rows in self._chunks():
                        column.write(np.ascontiguousarray(rows[name]).tobytes())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

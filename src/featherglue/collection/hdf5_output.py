"""The file that an HDF5 library writes to, which survives a full disk."""

from __future__ import annotations

import io
import os
from pathlib import Path


class Hdf5Output(io.RawIOBase):
    """A new file for `h5py.File`. It accepts every write and keeps the first error.

    HDF5 cannot close a file after a failed write: it tries again at the exit of the process, and
    crashes. So a failed write looks like a successful one, and the caller looks at `error`.

    Args:
        path: the file; it is replaced.

    Attributes:
        error: the first error of writing; None without one.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b", buffering=0)
        self._position = self._end = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill the buffer; what was not written is zero."""
        view = memoryview(buffer).cast("B")
        self._file.seek(self._position)
        read = 0
        while read < len(view) and (count := self._file.readinto(view[read:])):
            read += count
        view[read:] = bytes(len(view) - read)
        self._position += len(view)
        return len(view)

    def write(self, data: memoryview) -> int:  # type: ignore[override]
        """Write all data, or keep the error."""
        view = memoryview(data).cast("B")
        written = 0
        try:
            self._file.seek(self._position)
            while written < len(view) and self.error is None:
                written += self._file.write(view[written:]) or 0
        except OSError as error:
            self.error = error
        self._position += len(view)
        self._end = max(self._end, self._position)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length, or keep the error."""
        self._end = self._position if size is None else size
        try:
            self._file.truncate(self._end)
        except OSError as error:
            self.error = self.error or error
        return self._end

    def close(self) -> None:
        """Close the file."""
        self._file.close()
        super().close()

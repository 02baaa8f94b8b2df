"""The standard streams: closed, full or unable to show a character."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from featherglue.errors import OutputError


def prepare_streams() -> None:
    """Make the standard streams safe to print to.

    A closed stream gets a descriptor, so that no other file takes its number. A character that the
    terminal cannot show is printed as an escape sequence. An error of standard output is an
    `OutputError`.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123
    sys.stdout = _Output(sys.stdout)


def flush_streams() -> None:
    """Write what is buffered, where that is possible: before an exit that does not."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, OutputError, ValueError):
            stream.flush()


class _Output:
    """Standard output, whose errors are named. None stands for a closed stream."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.encoding = getattr(stream, "encoding", "utf-8")

    def write(self, text: str) -> int:
        if self._stream is None:
            raise OutputError("standard output is closed")
        try:
            return int(self._stream.write(text))
        except OSError as error:
            raise self._failed(error) from None

    def flush(self) -> None:
        try:
            if self._stream is not None:
                self._stream.flush()
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> OSError | OutputError:
        if isinstance(error, BrokenPipeError):
            return error
        self.discard()
        return OutputError(f"standard output: cannot be written ({error.strerror or error})")

    def discard(self) -> None:
        """Send what is still buffered to the null device, so that the exit does not fail on it."""
        if self._stream is not None:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

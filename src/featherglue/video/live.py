"""Live sources: a thread reads on and keeps the newest frame, so that no queue ever builds up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from featherglue.errors import SourceError
from featherglue.video.capture import Capture, grey_frame, no_answer
from featherglue.video.frames import Frame, FrameSource

_SLICE = 0.1  # seconds; how soon waiting notices that it should stop
_PAUSE = 0.3  # seconds between two attempts to open a source that dropped out


class LiveSource(FrameSource):
    """The newest frame of a camera or stream.

    Opening and reading happen in a thread. A source that drops out is opened again; it has ended
    when no frame has come for `timeout` seconds. A call into OpenCV that never comes back is left
    behind in its thread.

    Args:
        name: for messages.
        open_capture: opens the source; called again when it drops out.
        timeout: seconds to wait for a frame.
        rate: frames a second, where it is known.

    Raises:
        SourceError: it cannot be opened, or the first frame does not come in time.
    """

    live = True

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        *,
        timeout: float = 10.0,
        rate: float | None = None,
    ) -> None:
        super().__init__(name, rate)
        self._open_capture, self._timeout = open_capture, timeout
        self._changed = threading.Condition()
        self._newest: tuple[int, float, Any] | None = None
        self._ended: str | None = None  # why, once it has
        self._taking = False
        self._read = 0
        self._start = self._last = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="featherglue-video", daemon=True)
        self._thread.start()
        try:
            if not self._wait():
                raise SourceError(self._ended or no_answer(name, timeout))
        except BaseException:
            self.close()
            raise

    # --- in the thread ----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._read_until_it_fails()
                if not self._stopping and self._silent():
                    self._end(self._silence())
                    return
                time.sleep(_PAUSE)
        except SourceError as error:
            self._end(str(error))
        except Exception as error:  # what a driver may throw; the reader is told, not left waiting
            self._end(f"{self.name}: {type(error).__name__}: {error}")

    def _read_until_it_fails(self) -> None:
        try:
            capture = self._open_capture()
        except SourceError:
            if self._read == 0:
                raise
            return
        try:
            while not self._stopping:
                ok, image = capture.read()
                if not ok or image is None:
                    return
                self._keep(image)
        finally:
            capture.release()

    def _keep(self, image: Any) -> None:
        with self._changed:
            now = time.monotonic()
            if self._read == 0:
                self._start = now
            if self._newest is not None and self._taking:
                self.dropped += 1
            self._newest = (self._read, now - self._start, image)
            self._read += 1
            self._last = now
            self._changed.notify_all()

    def _end(self, why: str) -> None:
        with self._changed:
            self._ended = why
            self._changed.notify_all()

    # --- in the thread of the reader --------------------------------------------------------

    def _silent(self) -> bool:
        return time.monotonic() - self._last > self._timeout

    def _silence(self) -> str:
        if self._read == 0:
            return no_answer(self.name, self._timeout)
        return f"{self.name}: no frame for {self._timeout:g} s"

    def _wait(self) -> bool:
        """Wait for a frame; False where none comes any more."""
        with self._changed:
            while self._newest is None and not self._stopping:
                if self._ended is None and self._silent():
                    self._ended = self._silence()
                if self._ended is not None:
                    return False
                self._changed.wait(_SLICE)
        return self._newest is not None

    def _frames(self) -> Iterator[Frame]:
        self._taking = True
        while self._wait() and not self._stopping:
            with self._changed:
                assert self._newest is not None
                number, seconds, image = self._newest
                self._newest = None
            start = time.perf_counter()
            grey = grey_frame(image, self.name)
            spent = (time.perf_counter() - start) * 1e3
            yield Frame(number=number, time=seconds, image=grey, read_ms=spent)
        if self._ended is not None and not self._stopping:
            self.problems.append(self._ended)

    def close(self) -> None:
        """Stop reading; the thread gives back the camera or connection."""
        self._stopping = True
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(min(2.0, self._timeout))

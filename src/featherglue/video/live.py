"""Live sources: a thread reads all the time and keeps only the newest frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from featherglue.errors import SourceError
from featherglue.video.capture import Capture, gray_frame, no_answer_message
from featherglue.video.frames import Frame, FrameSource

_POLL_SECONDS = 0.1  # how often a waiting reader checks for the end
_RETRY_SECONDS = 0.3  # between two attempts to open a source that failed
_JOIN_SECONDS = 2.0  # maximum time that `close` waits for the thread


class LiveSource(FrameSource):
    """The newest frame of a camera or stream; no queue builds up.

    A thread opens and reads the source. A source that fails is opened again. It ends when no frame
    arrives for `timeout` seconds. A call of OpenCV that does not return is left to its thread.

    Args:
        name: name for messages.
        open_capture: opens the source; called again after a failure.
        timeout: maximum number of seconds between two frames.
        rate: frames per second; None if it is unknown.
        clock: returns seconds of any origin.

    Raises:
        SourceError: the source cannot be opened, or its first frame does not arrive in time.
    """

    live = True

    def __init__(
        self,
        name: str,
        open_capture: Callable[[], Capture],
        *,
        timeout: float = 10.0,
        rate: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name, rate)
        self._open_capture, self._timeout, self._clock = open_capture, timeout, clock
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._newest: tuple[int, float, Any] | None = None
        self._end_reason: str | None = None  # None while the source runs
        self._iterating = False
        self._num_read = 0
        self._start = self._last = clock()
        self._thread = threading.Thread(target=self._run, name="featherglue-video", daemon=True)
        self._thread.start()
        try:
            if not self._wait():
                raise SourceError(self._end_reason or no_answer_message(name, timeout))
        except BaseException:
            self.close()
            raise

    # --- in the reading thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._read_until_failure()
                if not self._stopping and self._timed_out():
                    self._end(self._timeout_message())
                    return
                self._closed.wait(_RETRY_SECONDS)
        except SourceError as error:
            self._end(str(error))
        except Exception as error:  # of a driver; the reader must not wait for ever
            self._end(f"{self.name}: {type(error).__name__}: {error}")

    def _read_until_failure(self) -> None:
        try:
            capture = self._open_capture()
        except SourceError:
            if self._num_read == 0:
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
            now = self._clock()
            if self._num_read == 0:
                self._start = now
            if self._newest is not None and self._iterating:
                self.num_dropped += 1
            self._newest = (self._num_read, now - self._start, image)
            self._num_read += 1
            self._last = now
            self._changed.notify_all()

    def _end(self, reason: str) -> None:
        with self._changed:
            self._end_reason = reason
            self._changed.notify_all()

    # --- in the thread of the reader ------------------------------------------------------------

    def _timed_out(self) -> bool:
        return self._clock() - self._last > self._timeout

    def _timeout_message(self) -> str:
        if self._num_read == 0:
            return no_answer_message(self.name, self._timeout)
        return f"{self.name}: no frame for {self._timeout:g} s"

    def _wait(self) -> bool:
        """Wait for a frame. Returns False when there are no more."""
        with self._changed:
            while self._newest is None and not self._stopping:
                if self._end_reason is None and self._timed_out():
                    self._end_reason = self._timeout_message()
                if self._end_reason is not None:
                    return False
                self._changed.wait(_POLL_SECONDS)
        return self._newest is not None

    def _frames(self) -> Iterator[Frame]:
        self._iterating = True
        while self._wait() and not self._stopping:
            with self._changed:
                assert self._newest is not None
                number, seconds, image = self._newest
                self._newest = None
            start = time.perf_counter()
            gray = gray_frame(image, self.name)
            milliseconds = (time.perf_counter() - start) * 1e3
            yield Frame(number=number, time=seconds, image=gray, read_ms=milliseconds)
        if self._end_reason is not None and not self._stopping:
            self.problems.append(self._end_reason)

    def close(self) -> None:
        """Stop reading. The thread releases the camera or connection."""
        self._stopping = True
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread is not threading.current_thread():
            self._thread.join(min(_JOIN_SECONDS, self._timeout))

"""OpenCV's VideoCapture, opened with a time-out and without its noise; video files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import SourceError
from featherglue.io.image import Grey, to_grey
from featherglue.video.frames import Frame, FrameSource

T = TypeVar("T")
# Containers guess how many frames they hold; only a gap larger than this means that some are lost.
_MISSING_SHARE, _MISSING_FRAMES = 0.05, 2
_RATE_TOLERANCE = 0.05  # 29.97 is 30


class Capture(Protocol):
    """What we need of cv2.VideoCapture."""

    def read(self) -> tuple[bool, Any]: ...
    def grab(self) -> bool: ...
    def release(self) -> None: ...
    def get(self, propId: int, /) -> float: ...


class _LogLevel:
    """OpenCV's level, which belongs to the process: silent until the last thread has left."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, 0

    def enter(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = cv2.utils.logging.getLogLevel()
                cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            self._users += 1

    def leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                cv2.utils.logging.setLogLevel(self._before)


_LEVEL = _LogLevel()


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's and FFmpeg's own lines off standard error; our messages say what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read by FFmpeg's first use
    _LEVEL.enter()
    try:
        yield
    finally:
        _LEVEL.leave()


def open_file(path: str, name: str) -> Capture:
    """A video file.

    Raises:
        SourceError: it cannot be opened.
    """
    with quiet_opencv():
        capture = cv2.VideoCapture(path)
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            f"{name}: not a video that OpenCV can read, or damaged; ffmpeg may convert or repair it"
        )
    return capture


def open_url(url: str, name: str, timeout: float) -> Capture:
    """A stream, or a video file behind an address.

    Raises:
        SourceError: no answer within `timeout` seconds, or nothing to read there.
    """
    start, limit = time.monotonic(), round(timeout * 1000)
    times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    with quiet_opencv():
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, times)
    if not capture.isOpened():
        capture.release()
        if time.monotonic() - start > 0.9 * timeout:
            raise SourceError(no_answer(name, timeout))
        raise SourceError(f"{name}: cannot be opened; is the address right, does it serve video?")
    return capture


def open_camera(
    device: int | str, name: str, size: tuple[int, int] | None, rate: float | None
) -> Capture:
    """A camera by its index or device file, with a (width, height) and frames a second if given.

    Raises:
        SourceError: there is none, or it does not offer this size or rate.
    """
    with quiet_opencv():
        capture = cv2.VideoCapture(device)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"{name}: cannot be opened; is it plugged in, free, and may you use it?"
            )
        refused = _adjust(capture, size, rate)
    if refused:
        capture.release()
        raise SourceError(f"{name}: does not offer {refused}")
    return capture


def _adjust(capture: cv2.VideoCapture, size: tuple[int, int] | None, rate: float | None) -> str:
    """Ask an open camera for a size and a rate; what it refused, and gives instead, or ""."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if size is not None:
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        for side, length in zip(sides, size, strict=True):
            capture.set(side, length)
        width, height = (round(capture.get(side)) for side in sides)
        if (width, height) != size:
            return f"`camera_size={size}`; it would give {width}×{height}"
    if rate is not None:
        capture.set(cv2.CAP_PROP_FPS, rate)
        given = capture.get(cv2.CAP_PROP_FPS)
        if given > 0 and abs(given - rate) > _RATE_TOLERANCE * rate:  # 0: it does not say
            return f"`rate={rate:g}`; it would give {given:g}"
    return ""


def within(seconds: float, name: str, open_: Callable[[], T], discard: Callable[[T], None]) -> T:
    """Call `open_` in a thread of its own; a call that comes back too late is discarded.

    Raises:
        SourceError: nothing came back in time.
    """
    outcome: list[T | BaseException] = []
    lock, late = threading.Lock(), False

    def work() -> None:
        result: T | BaseException
        try:
            result = open_()
        except BaseException as error:  # raised again in the thread that waits
            result = error
        with lock:
            if not late:
                outcome.append(result)
                return
        if not isinstance(result, BaseException):
            discard(result)

    thread = threading.Thread(target=work, name="featherglue-open", daemon=True)
    thread.start()
    thread.join(seconds)
    with lock:
        late = not outcome
    if late:
        raise SourceError(no_answer(name, seconds))
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def no_answer(name: str, timeout: float) -> str:
    """What to say of a source that is silent."""
    return f"{name}: no answer within {timeout:g} s (`timeout`)"


def grey_frame(image: NDArray[np.uint8], name: str) -> Grey:
    """A frame (H, W, 3) BGR as OpenCV gives it, or (H, W), as grey (H, W) uint8."""
    if image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    return to_grey(image, name)


class VideoFile(FrameSource):
    """Every frame of a video with an end, in order.

    Args:
        name: for messages.
        capture: opened; released by `close`.
        rate: frames a second, if the video's own is not to be believed.
        skip: take every `skip`-th.
        advice: what to do if it has no frame that can be read.
    """

    def __init__(
        self,
        name: str,
        capture: Capture,
        *,
        rate: float | None = None,
        skip: int = 1,
        advice: str = "ffmpeg may repair it",
    ) -> None:
        claimed, count = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        own = claimed if 0 < claimed <= 1000 else None
        self._count = int(count) if 0 < count < 1e9 else None
        frames = None if self._count is None else len(range(0, self._count, skip))
        super().__init__(name, rate or own, frames)
        self._capture, self._given, self._skip = capture, rate, skip
        self._advice = advice
        self._lock = threading.Lock()  # what is being read is not released

    def _frames(self) -> Iterator[Frame]:
        number, last = 0, -1.0
        while not self._stopping:
            start = time.perf_counter()
            with self._lock:
                if self.stopping:
                    break
                if number % self._skip:
                    if not self._capture.grab():
                        break
                    number += 1
                    continue
                ok, image = self._capture.read()
                if not ok:
                    break
                last = self._time(number, last)
            yield Frame(
                number=number,
                time=last,
                image=grey_frame(image, self.name),
                read_ms=(time.perf_counter() - start) * 1e3,
            )
            number += 1
        if number == 0 and not self._stopping:
            self.problems.append(self._advice)
        expected = (self._count or 0) * (1 - _MISSING_SHARE) - _MISSING_FRAMES
        if 0 < number < expected and not self._stopping:
            self.problems.append(
                f"{self.name}: ends after {number} of {self._count} frames; cut short or damaged"
            )

    def _time(self, number: int, last: float) -> float:
        """Seconds of this frame: by a given rate, by the file, or by its rate; always later."""
        if self._given is None:
            stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if stamp > last and (number == 0 or stamp > 0):
                return stamp
        rate = self.rate or 30.0
        return max(number / rate, last + 1 / rate if last >= 0 else 0.0)

    def close(self) -> None:
        """Close the file."""
        self._stopping = True
        with self._lock:
            self._capture.release()

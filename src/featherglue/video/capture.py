"""Opening OpenCV's VideoCapture with a timeout and without its messages."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import SourceError
from featherglue.io.gray import Gray, to_gray

T = TypeVar("T")
_RATE_TOLERANCE = 0.05  # relative; 29.97 counts as 30


class Capture(Protocol):
    """The part of cv2.VideoCapture that is used."""

    def read(self) -> tuple[bool, Any]: ...
    def grab(self) -> bool: ...
    def release(self) -> None: ...
    def get(self, propId: int, /) -> float: ...


class _LogLevel:
    """The log level of OpenCV, which is global: silent as long as a thread is inside."""

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
    """Silence OpenCV and FFmpeg on standard error; errors carry their own messages."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # FFmpeg reads it at its first use
    _LEVEL.enter()
    try:
        yield
    finally:
        _LEVEL.leave()


def open_file(path: str, name: str) -> Capture:
    """Open a video file.

    Raises:
        SourceError: the file cannot be opened.
    """
    with quiet_opencv():
        # FFmpeg takes the part of a relative path before a colon for a protocol.
        capture = cv2.VideoCapture(str(Path(path).absolute()))
    if not capture.isOpened():
        capture.release()
        raise SourceError(
            f"{name}: damaged, or not a video that OpenCV can read; ffmpeg may convert or repair it"
        )
    return capture


def open_url(url: str, name: str, timeout: float) -> Capture:
    """Open a stream, or a video file at an address.

    Raises:
        SourceError: no answer within `timeout` seconds, or no video at the address.
    """
    start, limit = time.monotonic(), round(timeout * 1000)
    times = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
    with quiet_opencv():
        capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG, times)
    if not capture.isOpened():
        capture.release()
        if time.monotonic() - start > 0.9 * timeout:
            raise SourceError(no_answer_message(name, timeout))
        raise SourceError(
            f"{name}: cannot be opened; check that the address is right and serves video"
        )
    return capture


def open_camera(
    device: int | str, name: str, size: tuple[int, int] | None, rate: float | None
) -> Capture:
    """Open a camera.

    Args:
        device: index or device file.
        name: name for messages.
        size: (width, height) to request; None takes the default of the camera.
        rate: frames per second to request; None takes the default of the camera.

    Raises:
        SourceError: the camera cannot be opened, or does not offer this size or rate.
    """
    with quiet_opencv():
        capture = cv2.VideoCapture(device)
        if not capture.isOpened():
            capture.release()
            raise SourceError(
                f"{name}: cannot be opened; check that it is connected, not in use, and permitted"
            )
        refused = _request(capture, size, rate)
    if refused:
        capture.release()
        raise SourceError(f"{name}: does not offer {refused}")
    return capture


def _request(capture: cv2.VideoCapture, size: tuple[int, int] | None, rate: float | None) -> str:
    """Request a size and a rate from a camera. Returns what the camera refused, or ""."""
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    if size is not None:
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        for side, length in zip(sides, size, strict=True):
            capture.set(side, length)
        width, height = (round(capture.get(side)) for side in sides)
        if (width, height) != size:
            return f"`camera_size={size}`; it offers {width}×{height}"
    if rate is not None:
        capture.set(cv2.CAP_PROP_FPS, rate)
        given = capture.get(cv2.CAP_PROP_FPS)
        if given > 0 and abs(given - rate) > _RATE_TOLERANCE * rate:  # 0: unknown
            return f"`rate={rate:g}`; it offers {given:g}"
    return ""


def call_with_timeout(
    seconds: float, name: str, open_: Callable[[], T], discard: Callable[[T], None]
) -> T:
    """Call a function in a thread and wait for its result for a limited time.

    Args:
        seconds: maximum time to wait.
        name: name for messages.
        open_: the function to call; its exceptions are raised here.
        discard: called with a result that arrives too late.

    Raises:
        SourceError: there was no result in time.
    """
    outcome: list[T | BaseException] = []
    lock, late = threading.Lock(), False

    def work() -> None:
        result: T | BaseException
        try:
            result = open_()
        except BaseException as error:  # raised in the thread that waits
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
        raise SourceError(no_answer_message(name, seconds))
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def no_answer_message(name: str, timeout: float) -> str:
    """Error message for a source that does not answer."""
    return f"{name}: no answer within {timeout:g} s (`timeout`)"


def gray_frame(image: NDArray[np.uint8], name: str) -> Gray:
    """Convert a frame (H, W, 3) BGR or (H, W) uint8 to gray (H, W) uint8."""
    if image.ndim == 3 and image.shape[2] == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
    return to_gray(image, name)

"""A video file as a source of frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import cv2

from featherglue.video.capture import Capture, gray_frame
from featherglue.video.frames import Frame, FrameSource

# The number of frames in the header of a video is an estimate. Only a larger gap is reported.
_MISSING_SHARE, _MISSING_FRAMES = 0.05, 2
_FALLBACK_RATE = 30.0  # frames per second, for times where neither file nor caller states a rate


class VideoFile(FrameSource):
    """Every frame of a video, in order.

    Args:
        name: name for messages.
        capture: the opened video; `close` releases it.
        rate: frames per second, instead of the timestamps and the rate of the file.
        skip: take every `skip`-th frame.
        advice: what the user can do if no frame can be read.
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
        stated, length = capture.get(cv2.CAP_PROP_FPS), capture.get(cv2.CAP_PROP_FRAME_COUNT)
        file_rate = stated if 0 < stated <= 1000 else None
        self._length = int(length) if 0 < length < 1e9 else None
        num_frames = None if self._length is None else len(range(0, self._length, skip))
        super().__init__(name, rate or file_rate, num_frames)
        self._capture, self._given_rate, self._skip = capture, rate, skip
        self._advice = advice
        self._lock = threading.Lock()  # `close` waits for a frame that is being read

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
                image=gray_frame(image, self.name),
                read_ms=(time.perf_counter() - start) * 1e3,
            )
            number += 1
        if not self._stopping:
            self._report_missing(number)

    def _report_missing(self, number: int) -> None:
        """Report a video that ended after `number` frames, if that is too early."""
        expected = (self._length or 0) * (1 - _MISSING_SHARE) - _MISSING_FRAMES
        if number == 0:
            self.problems.append(self._advice)
        elif number < expected:
            self.problems.append(
                f"{self.name}: ends after {number} of {self._length} frames; truncated or damaged"
            )

    def _time(self, number: int, last: float) -> float:
        """Seconds of a frame, by the given rate, the timestamps or the rate of the file.

        Times always increase.
        """
        if self._given_rate is None:
            stamp = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
            if stamp > last and (number == 0 or stamp > 0):
                return stamp
        rate = self.rate or _FALLBACK_RATE
        return max(number / rate, last + 1 / rate if last >= 0 else 0.0)

    def close(self) -> None:
        """Close the file."""
        self._stopping = True
        with self._lock:
            self._capture.release()

"""Live sources: the newest frame, time-outs, drop-outs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featherglue.video import LiveSource, SourceError


class Fake:
    """A camera that gives `frames` pictures, `pause` seconds apart, each filled with its number."""

    def __init__(self, frames: int, pause: float = 0.0, first: int = 0, then: str = "fail") -> None:
        self.frames, self.pause, self.first, self.then = frames, pause, first, then
        self.given, self.released = 0, threading.Event()
        self.go = threading.Event()

    def read(self) -> tuple[bool, Any]:
        if self.given == self.frames:
            if self.then == "hang":
                self.go.wait(10)
            return False, None
        time.sleep(self.pause)
        self.given += 1
        return True, np.full((12, 16, 3), self.first + self.given - 1, np.uint8)

    def grab(self) -> bool:
        return self.read()[0]

    def get(self, _: int, /) -> float:
        return 0.0

    def release(self) -> None:
        self.released.set()


def opener(*captures: Fake) -> Callable[[], Fake]:
    """Gives one after the other, then fails."""
    left = list(captures)

    def open_next() -> Fake:
        if not left:
            raise SourceError("fake: gone")
        return left.pop(0)

    return open_next


def test_a_slow_reader_gets_the_newest_frame_and_no_queue() -> None:
    camera = Fake(60, pause=0.01, then="hang")
    seen: list[int] = []
    newest: list[int] = []
    with LiveSource("fake", opener(camera), timeout=2) as source:
        for frame in source:
            newest.append(camera.given - 1)
            seen.append(frame.number)
            assert int(frame.image[0, 0]) == frame.number
            assert frame.image.shape == (12, 16)
            time.sleep(0.1)
            if len(seen) == 5:
                source.stop()
    camera.go.set()
    assert camera.released.wait(2)
    # Each frame was the newest when it was taken; about nine were missed between two.
    assert max(np.abs(np.subtract(newest, seen))) <= 2
    assert np.diff(seen).min() >= 2
    assert source.num_dropped == seen[-1] - seen[0] - 4 + max(0, camera.given - 1 - seen[-1] - 1)


def test_a_quick_reader_gets_every_frame() -> None:
    with LiveSource("fake", opener(Fake(20, pause=0.01)), timeout=0.3) as source:
        frames = list(source)
    numbers = [frame.number for frame in frames]
    assert len(numbers) >= 12  # on a busy machine a thread may come late
    assert source.num_dropped == 20 - len(numbers) - numbers[0]
    assert np.all(np.diff([frame.time for frame in frames]) > 0)


def test_a_source_that_stops() -> None:
    camera = Fake(3, pause=0.02)
    with LiveSource("fake", opener(camera), timeout=0.3) as source:
        frames = list(source)
    assert frames[-1].number == 2
    assert source.problems == ["fake: no frame for 0.3 s"]
    assert camera.released.is_set()


def test_a_source_that_drops_out_and_comes_back() -> None:
    first, second = Fake(3, pause=0.02), Fake(3, pause=0.02, first=3)
    with LiveSource("fake", opener(first, second), timeout=1) as source:
        frames = []
        for frame in source:
            frames.append(frame)
            if frame.number == 5:
                source.stop()
    assert [int(frame.image[0, 0]) for frame in frames] == [frame.number for frame in frames]
    assert frames[-1].number == 5
    assert first.released.is_set()


@pytest.mark.parametrize("frames", [0, 2])
def test_a_source_that_blocks_for_ever(frames: int) -> None:
    camera = Fake(frames, pause=0.01, then="hang")
    start = time.monotonic()
    if frames == 0:
        with pytest.raises(SourceError, match=r"fake: no answer within 0\.2 s"):
            LiveSource("fake", opener(camera), timeout=0.2)
    else:
        with LiveSource("fake", opener(camera), timeout=0.2) as source:
            assert list(source)[-1].number == 1
        assert source.problems == ["fake: no frame for 0.2 s"]
    assert time.monotonic() - start < 2
    camera.go.set()
    assert camera.released.wait(2)  # as soon as the driver comes back


def test_opening_that_fails_or_blocks() -> None:
    with pytest.raises(SourceError, match="fake: gone"):
        LiveSource("fake", opener(), timeout=5)
    blocked = threading.Event()

    def block() -> Fake:
        blocked.wait(10)
        raise SourceError("never shown")

    with pytest.raises(SourceError, match=r"no answer within 0\.1 s"):
        LiveSource("fake", block, timeout=0.1)
    blocked.set()

    def crash() -> Fake:
        raise RuntimeError("driver")

    with pytest.raises(SourceError, match="fake: RuntimeError: driver"):
        LiveSource("fake", crash, timeout=5)


def test_stopping_does_not_wait_for_a_frame() -> None:
    camera = Fake(1, then="hang")
    with LiveSource("fake", opener(camera), timeout=5) as source:
        start = time.monotonic()
        threading.Timer(0.1, source.stop).start()
        assert len(list(source)) == 1
        assert time.monotonic() - start < 1
        camera.go.set()
    assert source.problems == []

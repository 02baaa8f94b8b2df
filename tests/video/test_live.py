"""Live sources: the newest frame, timeouts, and failures of the camera."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from featherglue.video import LiveSource, SourceError, live


class Camera:
    """A camera that delivers a picture for each permit, filled with its number.

    After `frames` pictures it fails, or hangs until `wake`.
    """

    def __init__(self, frames: int, *, first: int = 0, then: str = "fail") -> None:
        self.frames, self.first, self.then = frames, first, then
        self.delivered = 0
        self.permits, self.reading = threading.Semaphore(1), threading.Semaphore(0)
        self.awake, self.released = threading.Event(), threading.Event()

    def give(self, count: int) -> None:
        """Deliver pictures. Returns after the source has taken the last one."""
        while self.reading.acquire(blocking=False):
            pass
        for _ in range(count):
            self.permits.release()
            assert self.reading.acquire(timeout=5)

    def wake(self) -> None:
        """Return from a call that hangs, without a picture."""
        self.awake.set()
        self.permits.release()

    def read(self) -> tuple[bool, Any]:
        self.reading.release()
        if self.delivered == self.frames:
            if self.then == "hang":
                self.awake.wait(10)
            return False, None
        assert self.permits.acquire(timeout=10)
        if self.awake.is_set():
            return False, None
        self.delivered += 1
        return True, np.full((12, 16, 3), self.first + self.delivered - 1, np.uint8)

    def grab(self) -> bool:
        return self.read()[0]

    def get(self, _: int, /) -> float:
        return 0.0

    def release(self) -> None:
        self.released.set()


class Clock:
    """A clock that moves by `step` seconds whenever it is read."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def opener(*captures: Camera) -> Callable[[], Camera]:
    """Opens one camera after the other, then fails."""
    left = list(captures)

    def open_next() -> Camera:
        if not left:
            raise SourceError("fake: gone")
        return left.pop(0)

    return open_next


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(live, "_POLL_SECONDS", 0.001)


def test_a_slow_reader_gets_the_newest_frame() -> None:
    camera = Camera(100)
    seen: list[int] = []
    with LiveSource("fake", opener(camera), clock=Clock()) as source:
        camera.give(0)
        for frame in source:
            seen.append(frame.number)
            assert int(frame.image[0, 0]) == frame.number
            assert frame.image.shape == (12, 16)
            if len(seen) == 5:
                source.stop()
                camera.wake()
            else:
                camera.give(10)
    assert camera.released.wait(5)
    assert seen == [0, 10, 20, 30, 40]
    assert source.num_dropped == 4 * 9


def test_a_quick_reader_gets_every_frame() -> None:
    camera, clock, times = Camera(20), Clock(), []
    with LiveSource("fake", opener(camera), timeout=5, clock=clock) as source:
        for frame in source:
            times.append(frame.time)
            clock.now += 1
            if frame.number < 19:
                camera.give(1)
            else:
                clock.now += 10
    assert times == list(range(20))
    assert source.num_dropped == 0


def test_a_source_that_ends() -> None:
    camera, clock, numbers = Camera(3), Clock(), []
    with LiveSource("fake", opener(camera), timeout=5, clock=clock) as source:
        for frame in source:
            numbers.append(frame.number)
            if frame.number < 2:
                camera.give(1)
            else:
                clock.now += 6
    assert numbers == [0, 1, 2]
    assert source.problems == ["fake: no frame for 5 s"]
    assert camera.released.wait(5)


def test_a_source_that_fails_and_returns() -> None:
    first, second = Camera(3), Camera(3, first=3)
    numbers: list[int] = []
    with LiveSource("fake", opener(first, second), clock=Clock()) as source:
        for frame in source:
            assert int(frame.image[0, 0]) == frame.number
            numbers.append(frame.number)
            if frame.number < 2:
                first.give(1)
            elif frame.number == 5:
                source.stop()
            elif frame.number > 2:
                second.give(1)
    assert numbers == list(range(6))
    assert first.released.wait(5)


def test_a_camera_that_never_delivers() -> None:
    camera = Camera(0, then="hang")
    with pytest.raises(SourceError, match=r"fake: no answer within 0\.2 s"):
        LiveSource("fake", opener(camera), timeout=0.2, clock=Clock(step=0.05))
    camera.wake()
    assert camera.released.wait(5)  # once the driver returns


def test_a_camera_that_stops_delivering() -> None:
    camera, clock, numbers = Camera(2, then="hang"), Clock(), []
    with LiveSource("fake", opener(camera), timeout=2, clock=clock) as source:
        for frame in source:
            numbers.append(frame.number)
            if frame.number == 0:
                camera.give(1)
            else:
                clock.step = 0.5
        camera.wake()
    assert numbers == [0, 1]
    assert source.problems == ["fake: no frame for 2 s"]
    assert camera.released.wait(5)


def test_a_source_that_cannot_be_opened() -> None:
    with pytest.raises(SourceError, match="fake: gone"):
        LiveSource("fake", opener(), clock=Clock())

    def crash() -> Camera:
        raise RuntimeError("driver")

    with pytest.raises(SourceError, match="fake: RuntimeError: driver"):
        LiveSource("fake", crash, clock=Clock())


def test_opening_that_does_not_return() -> None:
    blocked = threading.Event()

    def block() -> Camera:
        blocked.wait(10)
        raise SourceError("never shown")

    with pytest.raises(SourceError, match=r"no answer within 0\.1 s"):
        LiveSource("fake", block, timeout=0.1, clock=Clock(step=0.05))
    blocked.set()


def test_stopping_does_not_wait_for_a_frame() -> None:
    camera, waiting = Camera(1, then="hang"), threading.Event()

    def clock() -> float:
        if waiting.is_set():  # the reader checks the time while it waits
            source.stop()
        return 0.0

    with LiveSource("fake", opener(camera), clock=clock) as source:
        numbers = []
        for frame in source:
            numbers.append(frame.number)
            waiting.set()
        camera.wake()
    assert numbers == [0]
    assert source.problems == []

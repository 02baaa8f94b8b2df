"""Work on the next item in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from frame_sequences import frames

from featherglue.session import Session
from featherglue.video import Frame, FrameMatcher, match_frames, open_source
from featherglue.video import lookahead as lookahead_module
from featherglue.video.lookahead import lookahead


def test_the_next_item_is_processed_while_one_is_used() -> None:
    started = threading.Semaphore(0)

    def work(number: int) -> Callable[[], int]:
        started.release()
        return lambda: number * number

    squares = lookahead(range(3), work)
    for expected in (0, 1, 4):
        assert next(squares) == expected
        assert started.acquire(timeout=5)
    assert list(squares) == []


def test_an_error_is_raised_in_its_turn_and_closing_takes_at_most_one_more_item() -> None:
    def work(number: int) -> Callable[[], int]:
        taken.append(number)
        if number == 2:
            raise ValueError("two")
        return lambda: number

    taken: list[int] = []
    numbers = lookahead(range(5), work)
    assert [next(numbers), next(numbers)] == [0, 1]
    with pytest.raises(ValueError, match="two"):
        next(numbers)
    taken.clear()
    numbers = lookahead(iter(range(3, 9)), work)
    assert next(numbers) == 3
    numbers.close()
    assert taken in ([3], [3, 4])


def test_the_waiting_side_does_the_second_step(monkeypatch: pytest.MonkeyPatch) -> None:
    caller_waits, used, finished = (threading.Semaphore(0) for _ in range(3))
    threads: list[str] = []

    class Event(threading.Event):
        def set(self) -> None:
            super().set()
            caller_waits.release()

    monkeypatch.setattr(lookahead_module, "threading", SimpleNamespace(Event=Event))

    def work(number: int) -> Callable[[], int]:
        if number == 2:
            assert used.acquire(timeout=5)
            assert caller_waits.acquire(timeout=5)  # for this item

        def finish() -> int:
            threads.append(threading.current_thread().name)
            finished.release()
            return number

        return finish

    numbers = lookahead(range(4), work)
    assert next(numbers) == 0  # the caller waited for it from the start
    assert finished.acquire(timeout=5)
    assert finished.acquire(timeout=5)  # the thread finishes 1 while 0 is used
    assert next(numbers) == 1
    while caller_waits.acquire(blocking=False):
        pass
    used.release()
    assert list(numbers) == [2, 3]
    caller = threading.current_thread().name
    assert [name == caller for name in threads[:3]] == [True, False, True]


def test_a_stopped_source_gives_no_further_frame(
    session: Session, make_folder: Callable[..., Path], moving: list[np.ndarray]
) -> None:
    with open_source(make_folder(moving)) as source:
        seen = []
        for item in match_frames(session, source, lookahead=True):
            seen.append(item.frame.number)
            if len(seen) == 3:
                source.stop()
    assert seen == [0, 1, 2]


def test_no_frame_beyond_the_limit_is_read(
    session: Session, make_folder: Callable[..., Path], moving: list[np.ndarray]
) -> None:
    folder = make_folder(moving)
    sorted(folder.iterdir())[2].write_bytes(b"damaged")
    with open_source(folder) as source:
        items = list(FrameMatcher(session).run(source, lookahead=True, limit=2))
        assert (len(items), source.problems) == (2, [])


def test_the_thread_ends_when_matching_fails(
    session: Session, moving: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def reading() -> Iterator[Frame]:
        for frame in frames(moving):
            read.append(frame.number)
            yield frame

    def fail(*_: object) -> None:
        raise RuntimeError("matching")

    monkeypatch.setattr(session, "match", fail)
    with pytest.raises(RuntimeError, match="matching"):
        list(match_frames(session, reading(), lookahead=True))
    assert len(read) <= 3  # two for the failed match, and one ahead
    names = [thread.name for thread in threading.enumerate()]
    assert not any(name.startswith("featherglue-lookahead") for name in names)

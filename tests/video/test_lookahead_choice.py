"""The choice between lookahead and none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from frame_sequences import back_and_forth, frames

from featherglue.io.image import Image
from featherglue.matching.stopwatch import Stopwatch
from featherglue.session import RawFeatures, Session, load
from featherglue.video import Frame, FrameMatcher, FrameSource, match_frames, open_source


class Clock:
    """A clock that only advances on request."""

    def __init__(self) -> None:
        self._now, self._lock = 0.0, threading.Lock()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        with self._lock:
            self._now += seconds


class TimedSession(Session):
    """A session whose extraction takes a given time on a clock, by its number of threads."""

    def __init__(
        self, session: Session, clock: Clock, seconds: dict[int, float], threads: int
    ) -> None:
        super().__init__(session.extractor, session.matcher, session.processing)
        self.threads, self.clock, self.seconds, self.original = threads, clock, seconds, session

    def run_extractor(self, image: Image, watch: Stopwatch | None = None) -> RawFeatures:
        assert self.threads is not None
        self.clock.advance(self.seconds[self.threads])
        return super().run_extractor(image, watch)

    def with_threads(self, threads: int | None) -> Session:
        assert threads is not None
        return TimedSession(self.original, self.clock, self.seconds, threads)


# With lookahead the extraction is hidden behind the use of a frame, or takes far longer.
@pytest.mark.parametrize(("on_one_thread", "chosen", "threads"), [(0.0, True, 1), (0.3, False, 2)])
def test_the_faster_way_is_chosen(
    classical: Session,
    moving: list[np.ndarray],
    on_one_thread: float,
    chosen: bool,
    threads: int,
) -> None:
    clock = Clock()
    session = TimedSession(classical, clock, {2: 0.03, 1: on_one_thread}, 2)
    matcher = FrameMatcher(session, clock=clock)
    blank = [np.zeros_like(moving[0])] * 5  # frames without matches are not timed
    seen = []
    for item in matcher.run(frames(blank + back_and_forth(moving, 30)), lookahead=None):
        clock.advance(0.03)
        seen.append((item.frame.number, matcher.lookahead))
    assert [number for number, _ in seen] == list(range(35))
    used = [lookahead for _, lookahead in seen]
    assert used[:18] == [False] * 18
    assert used[18:30] == [True] * 12
    assert used[32:] == [chosen] * 3
    assert matcher.session.threads == threads


@pytest.fixture
def two_threads(matching: Path) -> Session:
    return load(matching, threads=2, max_keypoints=200, search="off")


def test_the_trial_gives_the_same_matches(two_threads: Session, moving: list[np.ndarray]) -> None:
    pictures = back_and_forth(moving, 40)
    plain = list(match_frames(two_threads, frames(pictures)))
    matcher, tried, used = FrameMatcher(two_threads), [], set()
    for item in matcher.run(frames(pictures), lookahead=None):
        tried.append(item)
        used.add(matcher.lookahead)
    assert used == {False, True}
    assert [item.frame.number for item in tried] == list(range(len(plain)))
    for one, other in zip(tried, plain, strict=True):
        np.testing.assert_array_equal(one.matches.points1, other.matches.points1)
        assert one.against == other.against


def test_thresholds_that_change_during_the_trial_are_kept(
    two_threads: Session, moving: list[np.ndarray]
) -> None:
    matcher = FrameMatcher(two_threads)
    for item in matcher.run(frames(back_and_forth(moving, 40)), lookahead=None):
        if item.frame.number in (5, 18):
            now = matcher.session.processing
            matcher.session = matcher.session.with_settings(
                keypoint_threshold=now.keypoint_threshold / 2,
                match_threshold=now.match_threshold + 0.05,
            )
    before, after = two_threads.processing, matcher.session.processing
    assert after.keypoint_threshold == pytest.approx(before.keypoint_threshold / 4)
    assert after.match_threshold == pytest.approx(before.match_threshold + 0.1)


@pytest.mark.parametrize("last", [2, 12, 18, 28])
def test_a_source_that_is_stopped_during_the_trial_gives_no_further_frame(
    two_threads: Session, make_folder: Callable[..., Path], moving: list[np.ndarray], last: int
) -> None:
    with open_source(make_folder(back_and_forth(moving, 40))) as source:
        seen = []
        for item in match_frames(two_threads, source, lookahead=None):
            seen.append(item.frame.number)
            if item.frame.number == last:
                source.stop()
    assert seen == list(range(last + 1))


def test_no_trial_where_lookahead_cannot_help(
    two_threads: Session, moving: list[np.ndarray]
) -> None:
    class Camera(FrameSource):
        live = True

        def _frames(self) -> Iterator[Frame]:
            yield from frames(back_and_forth(moving, 30))

        def close(self) -> None:
            pass

    one = two_threads.with_threads(1)
    own = Session(two_threads.extractor, two_threads.matcher, two_threads.processing)
    for session, source in (
        (two_threads, Camera("camera")),
        (own, frames(back_and_forth(moving, 30))),  # not loaded: its threads cannot change
        (one, frames(back_and_forth(moving, 30))),
        (load(features="sift", matcher="nn", threads=2), frames([np.zeros_like(moving[0])] * 30)),
    ):
        matcher = FrameMatcher(session)
        assert not any(matcher.lookahead for _ in matcher.run(source, lookahead=None))
        assert matcher.session.threads == session.threads

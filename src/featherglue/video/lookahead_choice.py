"""Choosing by measurement whether to extract the next frame in a thread."""

from __future__ import annotations

import statistics
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from featherglue.machine import num_cores
from featherglue.video.frames import Frame, FrameSource

if TYPE_CHECKING:
    from featherglue.video.frame_matching import FrameMatcher, FrameMatches

_NUM_WARM_UP, _NUM_TIMED = 3, 9  # frames with matches
# Maximum ratio of the times with and without lookahead, because lookahead delays each frame.
_MAX_TIME_RATIO = 0.97


def choose_lookahead(
    matcher: FrameMatcher, frames: Iterator[Frame], source: FrameSource | None
) -> Generator[FrameMatches, None, bool]:
    """Process some frames without lookahead, then some with it on half of the threads.

    Afterward the session of the matcher has the number of threads that suits the choice.

    Yields:
        The matches of the processed frames.

    Returns:
        Whether lookahead was clearly faster; False where it cannot be measured.
    """
    session = matcher.session
    half = (session.threads or num_cores()) // 2
    # A session that `load` did not make cannot change its threads. The threads of PyTorch are
    # those of the whole process.
    fixed = session.runtime is not None and session.artifact is None
    if half == 0 or fixed or session.runtime == "torch":
        return False
    without = yield from _timed(matcher, frames, source, use_lookahead=False)
    if without is None:
        return False
    session = matcher.session  # a key may have changed its thresholds
    matcher.session = session.with_threads(half)
    with_lookahead = yield from _timed(matcher, frames, source, use_lookahead=True)
    if with_lookahead is None or with_lookahead < _MAX_TIME_RATIO * without:
        return True
    current = matcher.session.processing
    matcher.session = session.with_settings(
        keypoint_threshold=current.keypoint_threshold,
        high_keypoint_threshold=current.high_keypoint_threshold,
        match_threshold=current.match_threshold,
    )
    return False


def _timed(
    matcher: FrameMatcher,
    frames: Iterator[Frame],
    source: FrameSource | None,
    *,
    use_lookahead: bool,
) -> Generator[FrameMatches, None, float | None]:
    """Process frames until enough frames with matches were timed.

    Returns:
        Mean seconds per frame, including its use, without the fastest and the slowest frame; None
        if the frames ended before.
    """
    seconds: list[float] = []
    num_warm, before = 0, 0.0

    def until_timed() -> Iterator[Frame]:
        for frame in frames:
            yield frame
            if len(seconds) >= _NUM_TIMED:
                return

    with closing(matcher.process_all(until_timed(), source, use_lookahead)) as items:
        for item in items:
            now = matcher.clock()
            if len(item.matches):
                num_warm += 1
                if num_warm > _NUM_WARM_UP:
                    seconds.append(now - before)
            before = now
            yield item
    if len(seconds) < _NUM_TIMED or (source is not None and source.stopping):
        return None
    return statistics.mean(sorted(seconds)[1:-1])

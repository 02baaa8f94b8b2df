"""The loop of `featherglue video`: match, draw, write and report each frame."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from featherglue.cli.video_report import VideoReport
from featherglue.video.frame_matching import FrameMatches
from featherglue.video.frames import FrameSource
from featherglue.video.overlay import captions, draw_frame
from featherglue.video.timing import StageTimes
from featherglue.video.track_writer import TrackWriter
from featherglue.video.tracking import Tracker, Tracks
from featherglue.video.window import Controls, Window
from featherglue.video.writer import FrameWriter

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
_NOTICE_SECONDS = 2.0  # how long the picture shows what a key changed


@dataclass(kw_only=True)
class VideoLoop:
    """Matches, draws, writes and reports one frame after the other.

    Attributes:
        controls: the frame matcher, and what keys change.
        report: prints each frame.
        writer: takes the pictures; None writes none.
        window: shows the pictures; None shows none.
        track_writer: takes the tracks; None makes none.
        min_track_length: minimum length in frames of the tracks that are drawn.
        clock: returns seconds of any origin.
    """

    controls: Controls
    report: VideoReport
    writer: FrameWriter | None
    window: Window | None
    track_writer: TrackWriter | None
    min_track_length: int
    clock: Callable[[], float] = time.perf_counter
    times: StageTimes = field(default_factory=StageTimes)
    tracker: Tracker = field(default_factory=Tracker)
    _notice: str = ""
    _notice_time: float = 0.0

    def run(self, source: FrameSource, max_frames: int | None, lookahead: bool | None) -> None:
        """Process every frame. `lookahead` is that of `FrameMatcher.run`."""
        for item in self.controls.matcher.run(source, lookahead=lookahead, limit=max_frames):
            self._process(item)
            self.report.problems(source.problems)
            if self.controls.quit:
                source.stop()
        self.report.problems(source.problems)

    def _process(self, item: FrameMatches) -> None:
        tracks = None
        if self.track_writer is not None:
            tracks = self.tracker.update(item)
            self.track_writer.add(item.frame.number, tracks)
        milliseconds = dict(item.milliseconds)
        if self.writer is not None or self.window is not None:
            start = self.clock()
            self._show(item, tracks)
            milliseconds["show"] = (self.clock() - start) * 1e3
        # A frame without a counterpart would add zeros to the times of the others.
        measured = milliseconds if item.matched else _without_matching(milliseconds)
        self.times.add(measured, self.clock())
        self.report.frame(item, milliseconds, self.times)

    def _show(self, item: FrameMatches, tracks: Tracks | None) -> None:
        processing = self.controls.matcher.session.processing
        recent = item.milliseconds | self.times.recent()
        thresholds = (
            f"keypoint threshold {processing.keypoint_threshold:.4g}   "
            f"match threshold {processing.match_threshold:.2f}"
        )
        below = [f"frame {item.frame.number}{_counterpart(item)}   {thresholds}"]
        if self._notice and self.clock() - self._notice_time < _NOTICE_SECONDS:
            below.insert(0, self._notice)
        picture = draw_frame(
            item,
            tracks,
            keypoints=self.controls.keypoints,
            min_track_length=self.min_track_length,
            above=captions(item, recent, self.times.rate(), tracks),
            below=below,
        )
        if self.writer is not None:
            self.writer.write(picture, item.frame)
        if self.window is not None:
            notice = self.controls.press(self.window.show(picture))
            if notice:
                self._notice, self._notice_time = notice, self.clock()

    def outputs(self) -> dict[str, Any]:
        """The outputs for the summary; empty if there was no frame."""
        facts: dict[str, Any] = {}
        if not self.times.num_frames:
            return facts
        facts["lookahead"] = self.controls.matcher.lookahead
        if self.writer is not None:
            facts["output"] = str(self.writer.path)
        if self.track_writer is not None:
            facts["tracks_file"] = str(self.track_writer.path)
            facts["tracks"] = self.track_writer.num_tracks
        return facts


def _counterpart(item: FrameMatches) -> str:
    if item.against is not None:
        return f" with {item.against}"
    return " with the reference image" if item.matched else ""


def _without_matching(milliseconds: dict[str, float]) -> dict[str, float]:
    return {k: ms for k, ms in milliseconds.items() if k not in ("match", "refine", "total")}


@contextmanager
def stop_on_signals(source: FrameSource) -> Iterator[list[int]]:
    """Stop a source on Ctrl-C, on a request to terminate and when the terminal is lost.

    The present frame is finished. A second signal raises KeyboardInterrupt. Signals that the
    process ignores (`nohup`, the background of a shell) stay ignored.

    Yields:
        The numbers of the received signals.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        source.stop()

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

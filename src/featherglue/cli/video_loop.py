"""The loop of `featherglue video`: match, draw, write, report, until the end or a signal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from featherglue.cli.video_report import Reporter
from featherglue.video.frame_matching import FrameMatches
from featherglue.video.frames import FrameSource
from featherglue.video.overlay import captions, draw_frame
from featherglue.video.timing import StageTimes
from featherglue.video.track_writer import TrackWriter
from featherglue.video.tracking import Tracker, Tracks
from featherglue.video.window import Controls, Window
from featherglue.video.writer import FrameWriter

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@dataclass(kw_only=True)
class Run:
    """One frame after the other through matching, drawing, writing and reporting."""

    controls: Controls
    times: StageTimes
    report: Reporter
    writer: FrameWriter | None
    window: Window | None
    track_writer: TrackWriter | None
    tracker: Tracker | None
    min_length: int  # of tracks that are shown
    ahead: bool | None = False  # extract the next frame meanwhile; None: see FrameMatcher.run
    said: str = ""
    said_at: float = 0.0

    def all(self, source: FrameSource, max_frames: int | None) -> None:
        """Take every frame."""
        for item in self.controls.matcher.run(source, ahead=self.ahead, limit=max_frames):
            self._one(item)
            self.report.problems(source.problems)
            if self.controls.quit:
                source.stop()
        self.report.problems(source.problems)

    def _one(self, item: FrameMatches) -> None:
        tracks = None
        if self.tracker is not None and self.track_writer is not None:
            tracks = self.tracker.update(item)
            self.track_writer.add(item.frame.number, tracks)
        spent = dict(item.milliseconds)
        if self.writer is not None or self.window is not None:
            start = time.perf_counter()
            self._show(item, tracks)
            spent["show"] = (time.perf_counter() - start) * 1e3
        self.times.add(spent if item.matched else _without_match(spent), time.perf_counter())
        self.report.frame(item, spent, self.times)

    def _show(self, item: FrameMatches, tracks: Tracks | None) -> None:
        processing = self.controls.matcher.session.processing
        recent = item.milliseconds | self.times.recent()
        thresholds = (
            f"keypoint threshold {processing.keypoint_threshold:.4g}   "
            f"match threshold {processing.match_threshold:.2f}"
        )
        below = [f"frame {item.frame.number}{_against(item)}   {thresholds}"]
        if self.said and time.monotonic() - self.said_at < 2:
            below.insert(0, self.said)
        picture = draw_frame(
            item,
            tracks,
            keypoints=self.controls.keypoints,
            min_length=self.min_length,
            above=captions(item, recent, self.times.rate(), tracks),
            below=below,
        )
        if self.writer is not None:
            self.writer.write(picture, item.frame)
        if self.window is not None:
            said = self.controls.press(self.window.show(picture))
            if said:
                self.said, self.said_at = said, time.monotonic()

    def outputs(self) -> dict[str, Any]:
        """What was written, for the summary; without a frame nothing is."""
        facts: dict[str, Any] = {}
        if not self.times.frames:
            return facts
        facts["ahead"] = self.controls.matcher.ahead
        if self.writer is not None:
            facts["output"] = str(self.writer.path)
        if self.track_writer is not None:
            facts["tracks_file"] = str(self.track_writer.path)
            facts["tracks"] = self.track_writer.tracks
        return facts


def _against(item: FrameMatches) -> str:
    if item.against is not None:
        return f" with {item.against}"
    return " with the reference" if item.matched else ""


def _without_match(milliseconds: dict[str, float]) -> dict[str, float]:
    """The stages of a frame that had nothing to match with: no zeros among the others' times."""
    absent = ("match", "refine", "total")
    return {name: spent for name, spent in milliseconds.items() if name not in absent}


@contextmanager
def stop_on_signals(source: FrameSource) -> Iterator[list[int]]:
    """Ctrl-C, a request to terminate and a lost terminal end the run after its frame.

    A second one ends it at once. Those that the process was told to ignore (`nohup`, a shell's
    background) stay ignored.

    Yields:
        the numbers of the signals that came.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def take(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        source.stop()

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, take) for number in taken}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

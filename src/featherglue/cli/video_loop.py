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
from featherglue.video.frames import FrameSource
from featherglue.video.matching import FrameMatches
from featherglue.video.overlay import captions, draw_frame
from featherglue.video.timing import StageTimes
from featherglue.video.tracker import Tracker, Tracks
from featherglue.video.tracks import TrackWriter
from featherglue.video.window import Controls, Window
from featherglue.video.writer import FrameWriter


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
    min_length: int
    said: str = ""
    said_at: float = 0.0

    def all(self, source: FrameSource, max_frames: int | None) -> bool:
        """Take every frame; whether a signal ended it."""
        with _stop_on_signals(source) as signals:
            for item in self.controls.matcher.run(source):
                self._one(item)
                self.report.problems(source.problems)
                if self.controls.quit or (max_frames and self.times.frames >= max_frames):
                    source.stop()
            self.report.problems(source.problems)
        return bool(signals)

    def _one(self, item: FrameMatches) -> None:
        tracks = None
        if self.tracker is not None and self.track_writer is not None:
            tracks = self.tracker.update(item)
            self.track_writer.add(item.frame.number, tracks)
        if self.writer is not None or self.window is not None:
            self._show(item, tracks)
        self.times.add(item.milliseconds, time.perf_counter())
        self.report.frame(item, self.times)

    def _show(self, item: FrameMatches, tracks: Tracks | None) -> None:
        processing = self.controls.matcher.session.processing
        recent = self.times.recent() or item.milliseconds
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
        """What was written, for the summary."""
        facts: dict[str, Any] = {}
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


@contextmanager
def _stop_on_signals(source: FrameSource) -> Iterator[list[int]]:
    """Ctrl-C and a request to terminate end the run after its frame; a second one at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def take(number: int, _: FrameType | None) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(number)
        source.stop()

    before = {number: signal.signal(number, take) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

"""What `featherglue video` prints: a status line a second, or JSON lines, and a summary."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from featherglue.cli.common import console, error_console
from featherglue.video.frame_matching import STAGES, FrameMatches
from featherglue.video.frames import FrameSource
from featherglue.video.timing import CountMedian, StageTimes

_EVERY = 1.0  # seconds between two status lines
_TIMED = (*STAGES, "show")


class Reporter:
    """Prints what happens.

    Args:
        as_json: one line of JSON a frame and one for the summary, nothing else.
        quiet: no status lines; a window shows the same.
        count: how many frames there will be, where it is known.
    """

    def __init__(self, *, as_json: bool, quiet: bool, count: int | None = None) -> None:
        self._as_json, self._quiet, self._count = as_json, quiet, count
        self._start = time.perf_counter()
        self._last_status = self._start
        self._matches, self._told = CountMedian(), 0

    def frame(self, item: FrameMatches, spent: dict[str, float], times: StageTimes) -> None:
        """After each frame, which took the milliseconds `spent`."""
        if item.matched:
            self._matches.add(len(item.matches))
        if self._as_json:
            _print_line(frame_facts(item, spent))
        elif not self._quiet and time.perf_counter() - self._last_status >= _EVERY:
            self._last_status = time.perf_counter()
            dropped = f"  dropped {item.dropped}" if item.dropped else ""
            of = f" ({times.frames} of {self._count})" if self._count else ""
            console.print(
                f"frame {item.frame.number}{of}  {times.rate():.1f} frames/s  "
                f"keypoints {len(item.features)}  matches {len(item.matches)}  "
                f"{_stages(times.recent())} ms{dropped}"
            )

    def problems(self, problems: list[str]) -> None:
        """Print those that are new, on standard error."""
        for problem in problems[self._told :]:
            error_console.print(f"warning: {problem}", markup=False)
        self._told = len(problems)

    def finish(
        self, times: StageTimes, source: FrameSource, outputs: dict[str, Any], interrupted: bool
    ) -> None:
        """The summary."""
        seconds = time.perf_counter() - self._start
        overall, rate = times.overall(), times.overall_rate()
        matches = self._matches.value()
        if self._as_json:
            facts = {
                "frames": times.frames,
                "seconds": round(seconds, 3),
                "frames_per_second": round(rate, 2),
                "dropped": source.dropped,
                "matches": matches,
                "ms": _rounded(overall),
                **outputs,
                "problems": source.problems,
                "interrupted": interrupted,
            }
            _print_line({"summary": facts})
            return
        lost = f", {source.dropped} dropped" if source.dropped else ""
        console.print(f"frames      {times.frames} in {seconds:.1f} s{lost}")
        if not times.frames:
            return
        console.print(
            f"rate        {rate:.1f} frames/s{', ahead' if outputs['ahead'] else ''}\n"
            f"matches     {matches} (median)\n"
            f"time        {_stages(overall)} ms (medians)"
        )
        if "tracks" in outputs:
            where = outputs["tracks_file"]
            console.print(f"tracks      {outputs['tracks']}: {where}", markup=False)
        if "output" in outputs:
            console.print(f"written     {outputs['output']}", markup=False)


def frame_facts(item: FrameMatches, spent: dict[str, float]) -> dict[str, Any]:
    """One frame, which took the milliseconds `spent`, as plain values."""
    facts: dict[str, Any] = {"frame": item.frame.number, "time": round(item.frame.time, 4)}
    if item.frame.name:
        facts["name"] = item.frame.name
    return facts | {
        "against": item.against,
        "keypoints": len(item.features),
        "matches": len(item.matches),
        "refined": int(item.matches.refined.sum()),
        "ms": _rounded(spent),
        "dropped": item.dropped,
    }


def _rounded(milliseconds: dict[str, float]) -> dict[str, float]:
    return {name: round(milliseconds[name], 2) for name in _TIMED if name in milliseconds}


def _stages(milliseconds: dict[str, float]) -> str:
    return "  ".join(f"{name} {milliseconds[name]:.1f}" for name in _TIMED if name in milliseconds)


def _print_line(facts: dict[str, Any]) -> None:
    """ASCII, so that any file name can be printed anywhere."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()

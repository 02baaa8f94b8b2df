"""Output of `featherglue video`: progress, JSON lines and a summary."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from featherglue.cli.common import STANDARD_OUTPUT, console
from featherglue.cli.progress import ProgressDisplay
from featherglue.errors import OutputError
from featherglue.video.frame_matching import STAGES, FrameMatches
from featherglue.video.frames import FrameSource
from featherglue.video.timing import CountMedian, StageTimes

if TYPE_CHECKING:
    from typing_extensions import Self

_TIMED = (*STAGES, "show")


class VideoReport:
    """Prints the frames and the summary of a run.

    Args:
        json_file: file of the JSON lines, one per frame and one for the summary; "-" is standard
            output, which then gets nothing else; None writes none.
        show_progress: show the progress on standard error.
        clock: returns seconds of any origin.

    Attributes:
        num_frames: number of frames of the run; None if it is unknown.
    """

    def __init__(
        self,
        json_file: str | None,
        *,
        show_progress: bool,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.num_frames: int | None = None
        self._json_file, self._clock = json_file, clock
        self._start = clock()
        self._progress = ProgressDisplay(
            "matching",
            unit="frames",
            enabled=show_progress and json_file != STANDARD_OUTPUT,
        )
        self._lines: IO[str] | None = None
        self._matches, self._num_reported = CountMedian(), 0

    def frame(self, item: FrameMatches, milliseconds: dict[str, float], times: StageTimes) -> None:
        """Report a frame and the time of its stages."""
        if item.matched:
            self._matches.add(len(item.matches))
        if self._json_file is not None:
            self._write_line(frame_facts(item, milliseconds))
        dropped = f"  dropped {item.dropped}" if item.dropped else ""
        self._progress.update(
            times.num_frames,
            f"matches {len(item.matches)} of {len(item.features)} keypoints{dropped}",
            total=self.num_frames,
        )

    def problems(self, problems: list[str]) -> None:
        """Print the problems that are new, on standard error."""
        for problem in problems[self._num_reported :]:
            self._progress.print(f"warning: {problem}")
        self._num_reported = len(problems)

    def finish(
        self, times: StageTimes, source: FrameSource, outputs: dict[str, Any], interrupted: bool
    ) -> None:
        """Print the summary."""
        self._progress.close()
        seconds = self._clock() - self._start
        if self._json_file is not None:
            summary = {
                "frames": times.num_frames,
                "seconds": round(seconds, 3),
                "frames_per_second": round(times.overall_rate(), 2),
                "dropped": source.num_dropped,
                "matches": self._matches.value(),
                "ms": _rounded(times.overall()),
                **outputs,
                "problems": source.problems,
                "interrupted": interrupted,
            }
            self._write_line({"summary": summary})
        if self._json_file != STANDARD_OUTPUT:
            self._print_summary(times, source, outputs, seconds)

    def _print_summary(
        self, times: StageTimes, source: FrameSource, outputs: dict[str, Any], seconds: float
    ) -> None:
        dropped = f", {source.num_dropped} dropped" if source.num_dropped else ""
        console.print(f"frames      {times.num_frames} in {seconds:.1f} s{dropped}")
        if not times.num_frames:
            return
        lookahead = " with lookahead" if outputs["lookahead"] else ""
        console.print(
            f"rate        {times.overall_rate():.1f} frames/s{lookahead}\n"
            f"matches     {self._matches.value()} (median)\n"
            f"time        {_stages(times.overall())} ms (medians)"
        )
        if "tracks" in outputs:
            where = outputs["tracks_file"]
            console.print(f"tracks      {outputs['tracks']}: {where}", markup=False)
        if "output" in outputs:
            console.print(f"output      {outputs['output']}", markup=False)

    def _write_line(self, facts: dict[str, Any]) -> None:
        """Write a line of ASCII, which any terminal can print."""
        assert self._json_file is not None
        line = json.dumps(facts) + "\n"
        if self._json_file == STANDARD_OUTPUT:
            sys.stdout.write(line)
            sys.stdout.flush()
            return
        try:
            if self._lines is None:
                self._lines = Path(self._json_file).open("w", encoding="utf-8")  # noqa: SIM115
            self._lines.write(line)
            self._lines.flush()
        except OSError as error:
            raise OutputError(
                f"{self._json_file}: cannot be written ({error.strerror or error})"
            ) from None

    def close(self) -> None:
        """Remove the progress and close the file. Can be called again."""
        self._progress.close()
        if self._lines is not None:
            self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def frame_facts(item: FrameMatches, milliseconds: dict[str, float]) -> dict[str, Any]:
    """A frame and the time of its stages, as plain values."""
    facts: dict[str, Any] = {"frame": item.frame.number, "time": round(item.frame.time, 4)}
    if item.frame.name:
        facts["name"] = item.frame.name
    return facts | {
        "against": item.against,
        "keypoints": len(item.features),
        "matches": len(item.matches),
        "refined": int(item.matches.refined.sum()),
        "ms": _rounded(milliseconds),
        "dropped": item.dropped,
    }


def _rounded(milliseconds: dict[str, float]) -> dict[str, float]:
    return {name: round(milliseconds[name], 2) for name in _TIMED if name in milliseconds}


def _stages(milliseconds: dict[str, float]) -> str:
    return "  ".join(f"{name} {milliseconds[name]:.1f}" for name in _TIMED if name in milliseconds)

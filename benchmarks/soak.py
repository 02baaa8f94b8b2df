"""Memory and speed over a long video: a folder of frames, repeated.

    python benchmarks/soak.py frames/ [--num-frames 10000] [--threads 2] [--json soak.json]

Frames are processed as by `featherglue video --track --lookahead`: they are read, extracted one
frame ahead on half of the threads, matched with the previous frame, and tracked. The tracks are
written to a file. Resident memory is sampled after loading, after a warm-up of 100 frames, after
every 1,000 frames and at the end. The exit code is 1 if it grows by more than --max-growth MB after
the warm-up, or if its peak exceeds --max-memory MB (1 MB is 10⁶ bytes).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
from option_types import positive

import featherglue as fg
from featherglue.io.files import write_json
from featherglue.io.image import list_images
from featherglue.machine import describe_machine, peak_memory
from featherglue.video import FrameMatcher, Tracker, TrackWriter, open_source
from featherglue.video.timing import CountMedian, StageTimes

WARM_UP = 100


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of speed and memory.

    Attributes:
        frames: number of processed frames.
        seconds: time since the start.
        frames_per_second: rate since the previous sample.
        memory: resident memory, bytes.
    """

    frames: int
    seconds: float
    frames_per_second: float
    memory: int


def resident_memory() -> int:
    """Resident memory of this process in bytes; its peak where the system has no /proc."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return peak_memory()
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Sampler:
    """Takes and prints samples."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self._start = time.perf_counter()
        print(f"{'frames':>8}{'seconds':>10}{'frames/s':>10}{'memory, MB':>12}", flush=True)

    def take(self, frames: int) -> None:
        """Take and print a sample after `frames` frames."""
        seconds, rate = time.perf_counter() - self._start, 0.0
        if self.samples:
            last = self.samples[-1]
            rate = (frames - last.frames) / (seconds - last.seconds)
        sample = Sample(
            frames=frames, seconds=seconds, frames_per_second=rate, memory=resident_memory()
        )
        self.samples.append(sample)
        print(f"{frames:8}{seconds:10.1f}{rate:10.1f}{sample.memory / 1e6:12.1f}", flush=True)


def soak(session: fg.Session, folder: Path, frames: int, every: int) -> dict[str, Any]:
    """Process `frames` frames. Returns the samples, and medians over all frames."""
    paths = list_images(folder)
    looped = (paths * (frames // len(paths) + 1))[:frames]
    matcher, tracker = FrameMatcher(session, tracking=True), Tracker()
    times, matches, sampler = StageTimes(), CountMedian(), Sampler()
    with (
        tempfile.TemporaryDirectory() as scratch,
        open_source(looped) as source,
        TrackWriter(Path(scratch) / "tracks.npz") as writer,
    ):
        sampler.take(0)
        for processed, item in enumerate(matcher.run(source, lookahead=True), 1):
            writer.add(item.frame.number, tracker.update(item))
            times.add(item.milliseconds, time.perf_counter())
            matches.add(len(item.matches))
            if processed in (WARM_UP, frames) or processed % every == 0:
                sampler.take(processed)
        if source.problems:
            raise SystemExit(f"unreadable frame: {source.problems[0]}")
    return {
        "frames": times.num_frames,
        "frames_per_second": round(times.overall_rate(), 2),
        "matches": matches.value(),
        "tracks": writer.num_tracks,
        "ms": {name: round(value, 2) for name, value in times.overall().items()},
        "samples": [asdict(sample) for sample in sampler.samples],
    }


def check_memory(
    samples: list[dict[str, Any]], max_growth: float, max_memory: float
) -> dict[str, Any]:
    """Growth and peak in bytes, and a message for each limit that is exceeded."""
    warm = [sample["memory"] for sample in samples if sample["frames"] >= WARM_UP]
    growth, peak, failures = max(warm) - warm[0], peak_memory(), []
    if growth > max_growth * 1e6:
        failures.append(f"memory grew by {growth / 1e6:.1f} MB, more than {max_growth:g} MB")
    if peak > max_memory * 1e6:
        failures.append(f"memory reached {peak / 1e6:.1f} MB, more than {max_memory:g} MB")
    return {"growth": growth, "peak": peak, "failures": failures}


def main(arguments: list[str] | None = None) -> int:
    """Run, print the table and write JSON. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of frames, repeated as often as needed")
    parser.add_argument("--num-frames", type=positive, default=10_000, help=f"more than {WARM_UP}")
    parser.add_argument(
        "--every", type=positive, default=1000, help="frames between two samples of memory"
    )
    parser.add_argument("--model", default="fast")
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--max-growth", type=float, default=20.0, help="MB since the warm-up")
    parser.add_argument("--max-memory", type=float, default=400.0, help="MB")
    parser.add_argument("--json", type=Path, help="file for the results")
    options = parser.parse_args(arguments)
    if options.num_frames <= WARM_UP:
        parser.error(f"--num-frames must be more than {WARM_UP}")
    cv2.setNumThreads(options.threads)
    session = fg.load(
        options.model,
        runtime=options.runtime,
        threads=max(1, options.threads // 2),
        max_keypoints=options.max_keypoints,
        search="off",
    )
    result = soak(session, options.folder, options.num_frames, options.every)
    result |= check_memory(result["samples"], options.max_growth, options.max_memory)
    stages = "  ".join(f"{name} {value:.1f}" for name, value in result["ms"].items())
    print(
        f"rate {result['frames_per_second']:.1f} frames/s   {stages} ms (medians)\n"
        f"memory grew by {result['growth'] / 1e6:.1f} MB since frame {WARM_UP}, "
        f"peak {result['peak'] / 1e6:.1f} MB"
    )
    if options.json is not None:
        settings = {"model": options.model, "runtime": options.runtime}
        settings |= {"threads": options.threads, "max_keypoints": options.max_keypoints}
        write_json(options.json, {**settings, "machine": describe_machine(), **result})
    for line in result["failures"]:
        print(f"error: {line}", file=sys.stderr)
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())

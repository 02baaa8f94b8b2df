"""Latency, throughput, memory and cold start of sessions, measured side by side.

All contenders take turns within every repetition, so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

import featherglue as fg
from featherglue.artifact.layers import total_macs
from featherglue.errors import FeatherglueError, UsageError
from featherglue.io.files import write_image
from featherglue.io.image import read_grey, resize_grey
from featherglue.machine import describe_machine
from featherglue.matching.stopwatch import Stopwatch
from featherglue.session import Session, load
from featherglue.types import MatchResult

FORMAT_VERSION = 1
Grey = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One configuration that is measured.

    Attributes:
        label: its name in tables. The others are arguments of `featherglue.load`.
    """

    label: str
    model: str = "fast"
    runtime: str = "auto"
    features: str = "superpoint"
    matcher: str = "superglue"
    max_keypoints: int = 512
    threads: int | None = None

    def open(self) -> Session:
        """The session."""
        options = dataclasses.asdict(self)
        del options["label"]
        return load(options.pop("model"), **options)


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """How to measure.

    Attributes:
        image_sizes: (width, height) each. repetitions: timed ones, after `warmup` more.
        cold: also start a fresh process for each contender, for its cold start and peak memory.
    """

    image_sizes: tuple[tuple[int, int], ...] = ((640, 480),)
    repetitions: int = 30
    warmup: int = 5
    cold: bool = True

    def __post_init__(self) -> None:
        sides = [side for size in self.image_sizes for side in size]
        if not sides or min(sides) < 16 or self.repetitions < 1 or self.warmup < 0:
            raise UsageError("image sides of at least 16, 1 repetition and 0 warm-ups are needed")


def benchmark(
    contenders: Sequence[Contender],
    config: BenchmarkConfig | None = None,
    frames: tuple[Grey, Grey] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure contenders and return everything as plain values.

    A repetition is the steady state of a video: features of the new frame, then matches with the
    kept features of the frame before. `stages` are its parts, `end_to_end` is the whole. Frames
    come as arrays; the stage `read`, of one from a JPEG file, is measured beside it, not in it.

    Args:
        frames: two grey images of one scene, resized to each size; drawn by default.
        progress: called after every repetition of all contenders.

    Raises:
        UsageError: no contender, or a setting out of range.
    """
    config = config or BenchmarkConfig()
    if not contenders:
        raise UsageError("nothing to measure")
    sessions = [contender.open() for contender in contenders]
    rows: list[dict[str, Any]] = []
    for size in config.image_sizes:
        views = [resize_grey(frame, size) for frame in frames or draw_frames(size)]
        measured = _take_turns(sessions, (views[0], views[1]), config, progress)
        found = [
            _row(contender, session, times, size)
            for contender, session, times in zip(contenders, sessions, measured, strict=True)
        ]
        if config.cold:
            _add_cold_starts(found, contenders, views)
        rows.extend(found)
    return {
        "format_version": FORMAT_VERSION,
        "kind": "benchmark",
        "image_size": list(config.image_sizes[0]),
        "repetitions": config.repetitions,
        "warmup": config.warmup,
        "machine": describe_machine(),
        "featherglue": fg.__version__,
        "rows": rows,
    }


@dataclass(frozen=True)
class _Times:
    """Of one contender: what each repetition gave, its whole in ms, and of reading a JPEG in ms."""

    results: list[MatchResult]
    spent: list[float]
    reading: list[float]


def _take_turns(
    sessions: Sequence[Session],
    frames: tuple[Grey, Grey],
    config: BenchmarkConfig,
    progress: Callable[[], None],
) -> list[_Times]:
    """Time every session in every repetition."""
    times = [_Times([], [], []) for _ in sessions]
    kept = [session.extract(frames[0]) for session in sessions]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.jpg"
        write_image(path, frames[1])
        for repetition in range(config.warmup + config.repetitions):
            for session, before, found in zip(sessions, kept, times, strict=True):
                start = time.perf_counter()
                watch = Stopwatch()
                result = session.match(before, session.extract(frames[1], watch), watch)
                middle = time.perf_counter()
                read_grey(path)
                end = time.perf_counter()
                if repetition >= config.warmup:
                    found.results.append(result)
                    found.spent.append((middle - start) * 1e3)
                    found.reading.append((end - middle) * 1e3)
            progress()
    return times


def _add_cold_starts(
    rows: Sequence[dict[str, Any]], contenders: Sequence[Contender], frames: Sequence[Grey]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.jpg" for i in range(2)]
        for path, frame in zip(paths, frames, strict=True):
            write_image(path, frame)
        for row, contender in zip(rows, contenders, strict=True):
            row.update(cold_start(contender, paths))


def _row(
    contender: Contender, session: Session, times: _Times, size: tuple[int, int]
) -> dict[str, Any]:
    results = times.results
    stages = [stage for stage in results[0].milliseconds if stage != "read"]
    row: dict[str, Any] = {
        **dataclasses.asdict(contender),
        "image_size": list(size),
        "keypoints": [len(results[0].features0), len(results[0].features1)],
        "matches": len(results[0].matches),
        "stages": {"read": summarize(times.reading)}
        | {
            stage: summarize([result.milliseconds[stage] for result in results]) for stage in stages
        },
        "end_to_end": summarize(times.spent),
    }
    row["frames_per_second"] = round(1e3 / row["end_to_end"]["median_ms"], 2)
    if session.artifact is not None:
        artifact = session.artifact
        macs = total_macs(artifact.architecture, size, contender.max_keypoints)
        row |= {
            "parameters": artifact.num_parameters,
            "nonzero": artifact.num_nonzero,
            "macs": sum(macs.values()),
            "bytes_on_disk": sum(artifact.file_sizes().values()),
        }
    return row


def summarize(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile."""
    return {
        "median_ms": round(statistics.median(milliseconds), 4),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 4),
    }


_COLD = """
import json, sys, time
start = time.perf_counter()
from featherglue.benchmarking import Contender
session = Contender(**json.loads(sys.argv[1])).open()
session(sys.argv[2], sys.argv[3])
spent = time.perf_counter() - start
from featherglue.machine import peak_memory
print(json.dumps({"cold_start_ms": spent * 1e3, "peak_bytes": peak_memory()}))
"""


def cold_start(
    contender: Contender, images: Sequence[Path], repetitions: int = 3
) -> dict[str, Any]:
    """Median ms from a fresh process to its first matches, and its peak memory in bytes.

    The start of Python itself is not counted.

    Raises:
        FeatherglueError: the process failed.
    """
    command = [sys.executable, "-c", _COLD, json.dumps(dataclasses.asdict(contender))]
    command += [str(path) for path in images]
    measured = []
    for _ in range(repetitions):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise FeatherglueError(
                f"{contender.label}: a fresh process failed: {done.stderr[-500:]}"
            )
        measured.append(json.loads(done.stdout.splitlines()[-1]))
    return {
        "cold_start_ms": round(statistics.median(row["cold_start_ms"] for row in measured), 1),
        "peak_bytes": int(statistics.median(row["peak_bytes"] for row in measured)),
    }


def draw_frames(size: tuple[int, int], seed: int = 0) -> tuple[Grey, Grey]:
    """Two views of a drawn scene with structure at every scale, moved by a few pixels.

    Args:
        size: (width, height).
    """
    rng = np.random.default_rng(seed)
    width, height = size
    canvas = np.full((height + 32, width + 32), 128, np.uint8)
    for scale in np.geomspace(0.4, 0.02, 400):
        centre = rng.uniform(0, 1, 2) * (width + 32, height + 32)
        corners = centre + rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * scale * width
        cv2.fillPoly(canvas, [corners.astype(np.int32)], int(rng.integers(0, 256)), cv2.LINE_AA)
    noisy = canvas + 4 * rng.standard_normal(canvas.shape)
    canvas = cv2.GaussianBlur(np.clip(noisy, 0, 255).astype(np.uint8), (0, 0), 0.8).astype(np.uint8)
    views = [
        np.ascontiguousarray(canvas[y : y + height, x : x + width]) for x, y in ((8, 8), (14, 5))
    ]
    return views[0], views[1]

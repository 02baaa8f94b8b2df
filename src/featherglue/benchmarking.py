"""Latency, throughput, memory and cold start of sessions, measured side by side.

The contenders take turns within every repetition, so that a drift of the machine affects all of
them equally.
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
from dataclasses import dataclass, field
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
from featherglue.options import MODEL, SessionOptions
from featherglue.session import Session, load
from featherglue.types import MatchResult

FORMAT_VERSION = 1
Grey = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One session that is measured.

    Attributes:
        label: name in tables.
        model: name of a shipped model, or the folder of an artifact.
        options: options of the session.
    """

    label: str
    model: str = "fast"
    options: SessionOptions = field(default_factory=SessionOptions)

    def open(self) -> Session:
        """Open the session. See `featherglue.load` for the errors."""
        return load(self.model, self.options)

    def to_json(self) -> str:
        """The contender as JSON, for another process."""
        fields = dataclasses.fields(SessionOptions)
        options = {field.name: getattr(self.options, field.name) for field in fields}
        given = {name: value for name, value in options.items() if value is not MODEL}
        return json.dumps({"label": self.label, "model": self.model, "options": given})

    @classmethod
    def from_json(cls, text: str) -> Contender:
        """The contender that `to_json` wrote."""
        values = json.loads(text)
        return cls(**values | {"options": SessionOptions(**values["options"])})


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """How sessions are measured.

    Attributes:
        image_sizes: (width, height) of the frames in pixels.
        repetitions: number of timed repetitions.
        warmup: number of repetitions before them that are not timed.
        cold: whether cold start and peak memory are measured, in fresh processes.

    Raises:
        UsageError: a value out of range.
    """

    image_sizes: tuple[tuple[int, int], ...] = ((640, 480),)
    repetitions: int = 30
    warmup: int = 5
    cold: bool = True

    def __post_init__(self) -> None:
        sides = [side for size in self.image_sizes for side in size]
        if not sides or min(sides) < 16 or self.repetitions < 1 or self.warmup < 0:
            raise UsageError("`image_sizes` must be at least 16 px, `repetitions` 1 and `warmup` 0")


def benchmark(
    contenders: Sequence[Contender | str],
    config: BenchmarkConfig | None = None,
    frames: tuple[Grey, Grey] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Measure sessions side by side.

    A repetition is the steady state of a video: extract the new frame, then match it with the
    features of the previous frame. Frames are arrays; reading a JPEG file is measured separately.

    Args:
        contenders: sessions, or names of models.
        config: how to measure.
        frames: two grey images (H, W) uint8 of one scene, resized to each size; None draws them.
        progress: called after every repetition of all contenders.

    Returns:
        The result as plain JSON values. `rows` has one entry for each image size and contender:
        `label`, `model`, `runtime`, `features`, `matcher`, `max_keypoints`, `threads`,
        `image_size`, `keypoints` (numbers in both frames), `matches` (number), `stages` (each
        with `median_ms` and `p95_ms`), `end_to_end` (likewise), `frames_per_second`, for networks
        `parameters`, `nonzero`, `macs` and `bytes_on_disk`, and with `config.cold`
        `cold_start_ms` and `peak_bytes`. Beside it are `image_size`, `repetitions`, `warmup`,
        `machine` and `featherglue` (version).

    Raises:
        UsageError: there are no contenders.
        FeatherglueError: a contender cannot be opened.
    """
    config = config or BenchmarkConfig()
    if not contenders:
        raise UsageError("`contenders` is empty: there is nothing to measure")
    named = [Contender(label=c, model=c) if isinstance(c, str) else c for c in contenders]
    sessions = [contender.open() for contender in named]
    rows: list[dict[str, Any]] = []
    for size in config.image_sizes:
        views = [resize_grey(frame, size) for frame in frames or draw_frames(size)]
        measured = _take_turns(sessions, (views[0], views[1]), config, progress)
        found = [
            _row(contender, session, times, size)
            for contender, session, times in zip(named, sessions, measured, strict=True)
        ]
        if config.cold:
            _add_cold_starts(found, named, views)
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
    """The repetitions of one contender.

    Attributes:
        results: matches of each repetition.
        end_to_end: ms of each repetition.
        reading: ms of reading a JPEG file.
    """

    results: list[MatchResult]
    end_to_end: list[float]
    reading: list[float]


def _take_turns(
    sessions: Sequence[Session],
    frames: tuple[Grey, Grey],
    config: BenchmarkConfig,
    progress: Callable[[], None],
) -> list[_Times]:
    """Time every session in every repetition."""
    times = [_Times([], [], []) for _ in sessions]
    previous = [session.extract(frames[0]) for session in sessions]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.jpg"
        write_image(path, frames[1])
        for repetition in range(config.warmup + config.repetitions):
            for session, before, found in zip(sessions, previous, times, strict=True):
                start = time.perf_counter()
                watch = Stopwatch()
                result = session.match(before, session.extract(frames[1], watch), watch)
                middle = time.perf_counter()
                read_grey(path)
                end = time.perf_counter()
                if repetition >= config.warmup:
                    found.results.append(result)
                    found.end_to_end.append((middle - start) * 1e3)
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
        "label": contender.label,
        "model": contender.model,
        "runtime": contender.options.runtime,
        "features": contender.options.features,
        "matcher": contender.options.matcher,
        "max_keypoints": session.processing.max_keypoints,
        "threads": contender.options.threads,
        "image_size": list(size),
        "keypoints": [len(results[0].features0), len(results[0].features1)],
        "matches": len(results[0].matches),
        "stages": {"read": summarize(times.reading)}
        | {
            stage: summarize([result.milliseconds[stage] for result in results]) for stage in stages
        },
        "end_to_end": summarize(times.end_to_end),
    }
    row["frames_per_second"] = round(1e3 / row["end_to_end"]["median_ms"], 2)
    if session.artifact is not None:
        artifact, most = session.artifact, session.processing.max_keypoints
        all_kept = most < 0
        macs = total_macs(artifact.architecture, size, max(row["keypoints"]) if all_kept else most)
        row |= {
            "parameters": artifact.num_parameters,
            "nonzero": artifact.num_nonzero,
            "macs": sum(macs.values()),
            "bytes_on_disk": sum(artifact.file_sizes().values()),
        }
    return row


def summarize(milliseconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile of times in ms, as `median_ms` and `p95_ms`."""
    return {
        "median_ms": round(statistics.median(milliseconds), 4),
        "p95_ms": round(float(np.percentile(milliseconds, 95)), 4),
    }


_COLD = """
import json, sys, time
start = time.perf_counter()
from featherglue.benchmarking import Contender
session = Contender.from_json(sys.argv[1]).open()
session(sys.argv[2], sys.argv[3])
elapsed = time.perf_counter() - start
from featherglue.machine import peak_memory
print(json.dumps({"cold_start_ms": elapsed * 1e3, "peak_bytes": peak_memory()}))
"""


def cold_start(
    contender: Contender, images: Sequence[Path], repetitions: int = 3
) -> dict[str, Any]:
    """Median time from importing featherglue to the first matches, and peak memory.

    Args:
        contender: the session to start in fresh processes.
        images: two image files.
        repetitions: number of processes.

    Returns:
        `cold_start_ms` in ms, without the start of Python, and `peak_bytes` in bytes.

    Raises:
        FeatherglueError: the process failed.
    """
    command = [sys.executable, "-c", _COLD, contender.to_json()]
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
    """Draw two views of a scene with structure at every scale, shifted by a few pixels.

    Args:
        size: (width, height) in pixels.
        seed: seed of the scene.

    Returns:
        Two grey images (H, W) uint8.
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

"""Latency of sessions that take turns within every repetition.

A drift of the machine affects all of them equally.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import featherglue
from featherglue.artifact.layers import total_macs
from featherglue.benchmarking.benchmark_result import BenchmarkResult, BenchmarkRow, summarize
from featherglue.benchmarking.contenders import Contender
from featherglue.benchmarking.drawn_frames import draw_frames
from featherglue.benchmarking.startup import ColdStart, cold_start
from featherglue.errors import ConfigError, UsageError
from featherglue.io.files import write_image
from featherglue.io.gray import Gray
from featherglue.io.image import read_gray, resize_gray
from featherglue.machine import describe_machine
from featherglue.matching.stopwatch import Stopwatch
from featherglue.native.library import kernels_name
from featherglue.session import Session
from featherglue.types import MatchResult


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """How sessions are measured.

    Attributes:
        image_sizes: (width, height) of the frames in pixels.
        repetitions: number of timed repetitions.
        warmup: number of repetitions before them that are not timed.
        cold: whether cold start and peak memory are measured, in fresh processes.

    Raises:
        ConfigError: a value out of range.
    """

    image_sizes: tuple[tuple[int, int], ...] = ((640, 480),)
    repetitions: int = 30
    warmup: int = 5
    cold: bool = True

    def __post_init__(self) -> None:
        sides = [side for size in self.image_sizes for side in size]
        if not sides or min(sides) < 16 or self.repetitions < 1 or self.warmup < 0:
            raise ConfigError(
                "`image_sizes` must be at least 16 px, `repetitions` 1 and `warmup` 0"
            )


def benchmark(
    contenders: Sequence[Contender | str],
    config: BenchmarkConfig | None = None,
    frames: tuple[Gray, Gray] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> BenchmarkResult:
    """Measure sessions side by side.

    A repetition is the steady state of a video: extract the new frame, then match it with the
    features of the previous frame. Frames are arrays; reading a JPEG file is measured separately.

    Args:
        contenders: sessions, or names of models.
        config: how to measure.
        frames: two gray images (H, W) uint8 of one scene, resized to each size; None draws them.
        progress: called after every repetition of all contenders.

    Returns:
        A row for each image size and contender; see `BenchmarkResult`.

    Raises:
        UsageError: there are no contenders.
        FeatherglueError: a contender cannot be opened.
    """
    config = config or BenchmarkConfig()
    if not contenders:
        raise UsageError("`contenders` is empty: there is nothing to measure")
    named = [Contender(label=c, model=c) if isinstance(c, str) else c for c in contenders]
    sessions = [contender.open() for contender in named]
    rows: list[BenchmarkRow] = []
    for size in config.image_sizes:
        first, second = (resize_gray(frame, size) for frame in frames or draw_frames(size))
        measured = _take_turns(sessions, (first, second), config, progress)
        starts = _cold_starts(named, (first, second)) if config.cold else [None] * len(named)
        rows.extend(map(_row, named, sessions, measured, starts, [size] * len(named)))
    return BenchmarkResult(
        rows=tuple(rows),
        repetitions=config.repetitions,
        warmup=config.warmup,
        machine=describe_machine() | {"kernels": kernels_name() or "NumPy"},
        version=featherglue.__version__,
    )


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
    frames: tuple[Gray, Gray],
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
                read_gray(path)
                end = time.perf_counter()
                if repetition >= config.warmup:
                    found.results.append(result)
                    found.end_to_end.append((middle - start) * 1e3)
                    found.reading.append((end - middle) * 1e3)
            progress()
    return times


def _cold_starts(
    contenders: Sequence[Contender], frames: tuple[Gray, Gray]
) -> Sequence[ColdStart | None]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.jpg" for i in range(2)]
        for path, frame in zip(paths, frames, strict=True):
            write_image(path, frame)
        return [cold_start(contender, paths) for contender in contenders]


def _row(
    contender: Contender,
    session: Session,
    times: _Times,
    start: ColdStart | None,
    size: tuple[int, int],
) -> BenchmarkRow:
    first = times.results[0]
    keypoints = len(first.features0), len(first.features1)
    stages = {"read": summarize(times.reading)}
    for stage in first.milliseconds:
        if stage != "read":
            stages[stage] = summarize([result.milliseconds[stage] for result in times.results])
    end_to_end = summarize(times.end_to_end)
    return BenchmarkRow(
        label=contender.label,
        model=contender.model,
        runtime=contender.options.runtime,
        features=contender.options.features,
        matcher=contender.options.matcher,
        max_keypoints=session.processing.max_keypoints,
        threads=contender.options.threads,
        image_size=size,
        keypoints=keypoints,
        matches=len(first.matches),
        stages=stages,
        end_to_end=end_to_end,
        frames_per_second=round(1e3 / end_to_end.median_ms, 2),
        **_network_sizes(session, size, max(keypoints)),
        cold_start_ms=None if start is None else start.cold_start_ms,
        peak_bytes=None if start is None else start.peak_bytes,
    )


def _network_sizes(session: Session, size: tuple[int, int], found: int) -> dict[str, int]:
    """The sizes of a session's networks, as fields of `BenchmarkRow`; none without networks."""
    artifact, maximum = session.artifact, session.processing.max_keypoints
    if artifact is None:
        return {}
    macs = total_macs(artifact.architecture, size, maximum if maximum >= 0 else found)
    return {
        "parameters": artifact.num_parameters,
        "nonzero": artifact.num_nonzero,
        "macs": sum(macs.values()),
        "bytes_on_disk": sum(artifact.file_sizes().values()),
    }

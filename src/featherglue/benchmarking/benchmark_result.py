"""The result of a benchmark, and its form as JSON."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KIND, FORMAT_VERSION = "benchmark", 1


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The distribution of a time over the repetitions.

    Attributes:
        median_ms: median in ms.
        p95_ms: 95th percentile in ms, linearly interpolated.
    """

    median_ms: float
    p95_ms: float

    def to_dict(self) -> dict[str, float]:
        """The fields as plain values."""
        return {"median_ms": self.median_ms, "p95_ms": self.p95_ms}


def summarize(milliseconds: Sequence[float]) -> Timing:
    """Median and 95th percentile of times in ms, rounded to 0.1 µs.

    Raises:
        statistics.StatisticsError: there are no times.
    """
    return Timing(
        median_ms=round(statistics.median(milliseconds), 4),
        p95_ms=round(float(np.percentile(milliseconds, 95)), 4),
    )


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
    """The measurement of one contender at one image size.

    Attributes:
        label: name in tables.
        model: name or folder of the model. Contenders without networks do not use it.
        runtime: the runtime that was asked for.
        features: kind of the extractor.
        matcher: kind of the matcher; None is that of the model.
        max_keypoints: maximum number of keypoints; −1 is no maximum.
        threads: number of threads; None is the choice of the runtime.
        image_size: (width, height) of the frames in pixels.
        keypoints: numbers of keypoints in the previous and the new frame.
        matches: number of matches.
        stages: time of each stage by its name, and of reading a JPEG file as `read`.
        end_to_end: time of the extraction from a new frame and its match with the previous one.
        frames_per_second: the inverse of the median of `end_to_end`.
        parameters: number of parameters of the networks; None without networks.
        nonzero: number of non-zero parameters; None without networks.
        macs: number of multiply–accumulates of one extraction and one match; None without networks.
        bytes_on_disk: size of the model's files; None without networks.
        cold_start_ms: time from importing featherglue to the first matches in ms; None if it was
            not measured.
        peak_bytes: peak memory of that process in bytes; None if it was not measured.
    """

    label: str
    model: str
    runtime: str
    features: str
    matcher: str | None
    max_keypoints: int
    threads: int | None
    image_size: tuple[int, int]
    keypoints: tuple[int, int]
    matches: int
    stages: Mapping[str, Timing]
    end_to_end: Timing
    frames_per_second: float
    parameters: int | None = None
    nonzero: int | None = None
    macs: int | None = None
    bytes_on_disk: int | None = None
    cold_start_ms: float | None = None
    peak_bytes: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Sizes of networks and cold starts that are None are left out."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in _OPTIONAL:
            if values[name] is None:
                del values[name]
        return values | {
            "image_size": list(self.image_size),
            "keypoints": list(self.keypoints),
            "stages": {name: timing.to_dict() for name, timing in self.stages.items()},
            "end_to_end": self.end_to_end.to_dict(),
        }


_OPTIONAL = ("parameters", "nonzero", "macs", "bytes_on_disk", "cold_start_ms", "peak_bytes")


@dataclass(frozen=True, kw_only=True)
class BenchmarkResult:
    """Measurements of several contenders that took turns.

    Attributes:
        rows: a row for each image size and contender, all contenders of the first size first.
        repetitions: number of timed repetitions.
        warmup: number of repetitions before them that were not timed.
        machine: processor, cores and versions, see `featherglue.machine.describe_machine`; and
            `kernels`, the compiled library that is used, or "NumPy".
        version: version of featherglue.
    """

    rows: tuple[BenchmarkRow, ...]
    repetitions: int
    warmup: int
    machine: Mapping[str, Any]
    version: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, with the first image size as `image_size`."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": KIND,
            "image_size": list(self.rows[0].image_size),
            "repetitions": self.repetitions,
            "warmup": self.warmup,
            "machine": dict(self.machine),
            "featherglue": self.version,
            "rows": [row.to_dict() for row in self.rows],
        }

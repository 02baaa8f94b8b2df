"""Latency, throughput, memory and cold start of sessions, measured side by side.

    import featherglue as fg

    result = fg.benchmark(["fast", "balanced"])
    result.rows[0].end_to_end.median_ms
    result.rows[0].stages["matcher"].p95_ms

`Contender` describes a session with other options, `BenchmarkConfig` how to measure.
"""

from __future__ import annotations

from featherglue.benchmarking.benchmark_result import (
    BenchmarkResult,
    BenchmarkRow,
    Timing,
    summarize,
)
from featherglue.benchmarking.contenders import Contender
from featherglue.benchmarking.drawn_frames import draw_frames
from featherglue.benchmarking.latency import BenchmarkConfig, benchmark
from featherglue.benchmarking.startup import ColdStart, cold_start

__all__ = [
    "BenchmarkConfig",
    "BenchmarkResult",
    "BenchmarkRow",
    "ColdStart",
    "Contender",
    "Timing",
    "benchmark",
    "cold_start",
    "draw_frames",
    "summarize",
]

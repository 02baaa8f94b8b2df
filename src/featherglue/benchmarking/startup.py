"""Cold start and peak memory of a session, measured in fresh processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featherglue.benchmarking.contenders import Contender
from featherglue.errors import FeatherglueError

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


@dataclass(frozen=True, kw_only=True)
class ColdStart:
    """The start of a session in a fresh process.

    Attributes:
        cold_start_ms: time from importing featherglue to the first matches in ms, without the
            start of Python.
        peak_bytes: peak memory of the process in bytes.
    """

    cold_start_ms: float
    peak_bytes: int


def cold_start(contender: Contender, images: Sequence[Path], repetitions: int = 3) -> ColdStart:
    """Measure the start of a session: medians over several fresh processes.

    Args:
        contender: the session to start.
        images: two image files.
        repetitions: number of processes.

    Raises:
        FeatherglueError: a process failed.
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
    return ColdStart(
        cold_start_ms=round(statistics.median(row["cold_start_ms"] for row in measured), 1),
        peak_bytes=int(statistics.median(row["peak_bytes"] for row in measured)),
    )

"""Timing on a machine that may do other work: turns of all contenders, and the clock.

Contenders take turns, so that a change of the machine's speed affects all of them, and the median
of the turns counts. Each turn is a step of the journal, so that a stopped measurement continues.
With one thread a time is CPU time, which other programs disturb little; with more it is elapsed
time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from featherglue.artifact.encodings import LinearTensor
from featherglue.artifact.format import Artifact
from featherglue.config import to_dict

Call = Callable[[], object]
Load = Callable[[], Call]
Turn = dict[str, Any]
"""`seconds` of each contender, and `load`, the load average before and after the turn."""
Remember = Callable[[str, Mapping[str, Any], Callable[[], Turn]], Turn]
"""Given the name and the inputs of a turn, returns the stored turn, or calls the function."""

_MANY = 4096  # keypoints for which one turn is enough


def what_is_timed(artifact: Artifact) -> dict[str, Any]:
    """Return what the time of a model depends on: its architecture, and the integers in it."""
    quantization = artifact.quantization
    codes = quantization.tensors.items()
    return {
        "architecture": to_dict(artifact.architecture),
        "weights": {name: code.bits for name, code in codes if isinstance(code, LinearTensor)},
        "activations": sorted(quantization.activations),
    }


def measure_now(name: str, inputs: Mapping[str, Any], measure: Callable[[], Turn]) -> Turn:
    """Return a new measurement: a `Remember` that stores nothing."""
    del name, inputs
    return measure()


def clock(threads: int) -> Callable[[], float]:
    """Return the clock for calls with a number of threads, in seconds."""
    return time.process_time if threads == 1 else time.perf_counter


class Turns:
    """Contenders that are timed in turn.

    Args:
        prepare: returns a function for each contender that loads it and returns the call to time.
            It is called before the first turn, so that nothing is loaded if all turns are stored.
        threads: number of threads of the contenders.
        together: whether all contenders stay loaded. If not, each one is loaded for each turn and
            freed after it.
    """

    def __init__(
        self, prepare: Callable[[], Sequence[Load]], threads: int, together: bool = True
    ) -> None:
        self._prepare, self._clock, self._together = prepare, clock(threads), together
        self._loads: Sequence[Load] | None = None
        self._calls: list[Call] = []

    def __call__(self) -> Turn:
        """Time each contender once. A loaded one is called once without timing."""
        if self._loads is None:
            self._loads = self._prepare()
            if self._together:
                self._calls = [_warm(load) for load in self._loads]
        before = _load_average()
        if self._together:
            seconds = [self._timed(call) for call in self._calls]
        else:
            seconds = [self._timed(_warm(load)) for load in self._loads]
        return {"seconds": seconds, "load": [before, _load_average()]}

    def _timed(self, call: Call) -> float:
        start = self._clock()
        call()
        return self._clock() - start


def medians(turns: Sequence[Turn]) -> list[float]:
    """Return the median of each contender in seconds."""
    return [float(np.median(times)) for times in zip(*(t["seconds"] for t in turns), strict=True)]


def num_turns(repetitions: int, count: int) -> int:
    """Return the number of turns with a number of keypoints: calls with many of them are long."""
    return min(repetitions, max(1, _MANY // count))


def conditions(turns: Sequence[Turn], threads: int) -> dict[str, Any]:
    """Return the number of threads and turns, and the range of the load average."""
    loads = [load for turn in turns for load in turn["load"] if load is not None]
    found: dict[str, Any] = {"threads": threads, "turns": len(turns)}
    return found | ({"load": [min(loads), max(loads)]} if loads else {})


def _warm(load: Load) -> Call:
    call = load()
    call()
    return call


def _load_average() -> float | None:
    """Return the load average of the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None

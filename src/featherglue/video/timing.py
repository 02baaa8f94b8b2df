"""How fast it goes: over the last frames for the eye, over all of them for the summary."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping

_LOWEST, _STEP, _BINS = 1e-3, math.log(1.01), 2200  # ms; each bin 1 % wide, up to 50 minutes


class RunningMedian:
    """The median of any number of positive values, to 1 %, in constant memory."""

    def __init__(self) -> None:
        self._counts = [0] * _BINS
        self._total = 0

    def add(self, value: float) -> None:
        """Count a value."""
        place = math.log(value / _LOWEST) / _STEP if value > _LOWEST else 0
        self._counts[min(_BINS - 1, int(place))] += 1
        self._total += 1

    def value(self) -> float:
        """The median; 0 before the first value."""
        seen = 0
        for place, count in enumerate(self._counts):
            seen += count
            if count and 2 * seen >= self._total:
                return _LOWEST * math.exp((place + 0.5) * _STEP) if place else 0.0
        return 0.0


class CountMedian:
    """The median of any number of counts, exact; its memory grows with how many differ."""

    def __init__(self) -> None:
        self._times: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Take a count."""
        self._times[value] += 1

    def value(self) -> int:
        """The median, the lower one of two; 0 before the first count."""
        seen, total = 0, self._times.total()
        for value in sorted(self._times):
            seen += self._times[value]
            if 2 * seen >= total:
                return value
        return 0


class StageTimes:
    """Milliseconds by stage, and frames a second.

    Args:
        window: how many frames `recent` and `rate` look back.
    """

    def __init__(self, window: int = 30) -> None:
        self._window = window
        self._recent: dict[str, deque[float]] = {}
        self._overall: dict[str, RunningMedian] = {}
        self._ends: deque[float] = deque(maxlen=window + 1)
        self._first: float | None = None
        self.frames = 0

    def add(self, milliseconds: Mapping[str, float], now: float) -> None:
        """Take the times of a frame that was done at `now`, seconds of any steady clock."""
        for name, spent in milliseconds.items():
            self._recent.setdefault(name, deque(maxlen=self._window)).append(spent)
            self._overall.setdefault(name, RunningMedian()).add(spent)
        self._first = now if self._first is None else self._first
        self._ends.append(now)
        self.frames += 1

    def recent(self) -> dict[str, float]:
        """Medians (ms) over the last frames."""
        return {name: statistics.median(values) for name, values in self._recent.items()}

    def overall(self) -> dict[str, float]:
        """Medians (ms) over all frames, to 1 %."""
        return {name: values.value() for name, values in self._overall.items()}

    def rate(self) -> float:
        """Frames a second over the last frames, everything included; 0 before the second one."""
        return _rate(len(self._ends), self._ends[0], self._ends[-1]) if self._ends else 0.0

    def overall_rate(self) -> float:
        """Frames a second over all frames; 0 before the second one."""
        if self._first is None:
            return 0.0
        return _rate(self.frames, self._first, self._ends[-1])


def _rate(frames: int, first: float, last: float) -> float:
    return (frames - 1) / (last - first) if last > first else 0.0

"""Times by stage and frames per second, over the last frames and over all frames."""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping

# Bins of 1 % from a microsecond to 50 minutes, in milliseconds.
_MIN_VALUE, _BIN_WIDTH, _NUM_BINS = 1e-3, math.log(1.01), 2200


class RunningMedian:
    """The median of any number of positive values, within 1 %, in constant memory."""

    def __init__(self) -> None:
        self._counts = [0] * _NUM_BINS
        self._total = 0

    def add(self, value: float) -> None:
        """Add a value."""
        position = math.log(value / _MIN_VALUE) / _BIN_WIDTH if value > _MIN_VALUE else 0
        self._counts[min(_NUM_BINS - 1, int(position))] += 1
        self._total += 1

    def value(self) -> float:
        """The median; 0 before the first value."""
        seen = 0
        for i, count in enumerate(self._counts):
            seen += count
            if count and 2 * seen >= self._total:
                return _MIN_VALUE * math.exp((i + 0.5) * _BIN_WIDTH) if i else 0.0
        return 0.0


class CountMedian:
    """The exact median of any number of integers; memory grows with their distinct values."""

    def __init__(self) -> None:
        self._frequencies: Counter[int] = Counter()

    def add(self, value: int) -> None:
        """Add a value."""
        self._frequencies[value] += 1

    def value(self) -> int:
        """The median, the lower one of two; 0 before the first value."""
        seen, total = 0, self._frequencies.total()
        for value in sorted(self._frequencies):
            seen += self._frequencies[value]
            if 2 * seen >= total:
                return value
        return 0


class StageTimes:
    """Milliseconds by stage, and frames per second.

    Args:
        window: number of frames that `recent` and `rate` cover.

    Attributes:
        num_frames: number of added frames.
    """

    def __init__(self, window: int = 30) -> None:
        self._window = window
        self._recent: dict[str, deque[float]] = {}
        self._overall: dict[str, RunningMedian] = {}
        self._ends: deque[float] = deque(maxlen=window + 1)
        self._first: float | None = None
        self.num_frames = 0

    def add(self, milliseconds: Mapping[str, float], now: float) -> None:
        """Add a frame that was finished at `now`, in seconds of any monotonic clock."""
        for name, value in milliseconds.items():
            self._recent.setdefault(name, deque(maxlen=self._window)).append(value)
            self._overall.setdefault(name, RunningMedian()).add(value)
        self._first = now if self._first is None else self._first
        self._ends.append(now)
        self.num_frames += 1

    def recent(self) -> dict[str, float]:
        """Median milliseconds by stage over the last frames."""
        return {name: statistics.median(values) for name, values in self._recent.items()}

    def overall(self) -> dict[str, float]:
        """Median milliseconds by stage over all frames, within 1 %."""
        return {name: values.value() for name, values in self._overall.items()}

    def rate(self) -> float:
        """Frames per second over the last frames, everything included; 0 if unknown."""
        return _rate(len(self._ends), self._ends[0], self._ends[-1]) if self._ends else 0.0

    def overall_rate(self) -> float:
        """Frames per second over all frames; 0 if unknown."""
        if self._first is None:
            return 0.0
        return _rate(self.num_frames, self._first, self._ends[-1])


def _rate(num_frames: int, first: float, last: float) -> float:
    return (num_frames - 1) / (last - first) if last > first else 0.0

"""How far a training is: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from featherglue.errors import TrainingError

_LINE_SECONDS = 30.0
_RECENT = 60  # reports that the rate is measured over
_VALIDATION = "validation "
# What `adapt` reports of its own pace, which is shown in another way.
_PACE = ("rate", "minutes_left")


class TrainingProgress:
    """Shows what a stage reports; give `report` to it, and `close` in the end.

    Args:
        console: where to. total: steps of the whole run, None where they are not known.
        minutes: after which the run stops anyway. clock: seconds, of any origin.
        unit: what is counted.
    """

    def __init__(
        self,
        console: Console,
        total: int | None,
        minutes: float = math.inf,
        unit: str = "steps",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console, self.total, self.unit, self.clock = console, total, unit, clock
        self.end = clock() + 60 * minutes
        self.seen: deque[tuple[float, int]] = deque(maxlen=_RECENT)
        self.printed = -math.inf
        self.rows: list[Mapping[str, float]] = []  # since the last line
        self.step = 0
        self.bar: _Bar | None = None

    def report(self, step: int, row: Mapping[str, float]) -> None:
        """Show a stage's report; what validation measured always gets a line of its own."""
        if any(key.startswith(_VALIDATION) for key in row):
            measured = {key.removeprefix(_VALIDATION): value for key, value in row.items()}
            self._say(f"{self._count(step)}: validation {_values(measured)}")
            return
        self.step = step
        now = self.clock()
        self.seen.append((now, step))
        self.rows.append(row)
        if self.console.is_terminal:
            self._show(step, row)
        elif now - self.printed >= _LINE_SECONDS:
            self._print(now)

    def close(self) -> None:
        """Say what was reported since the last line, and take the bar away."""
        if self.bar is not None:
            self.bar.stop()
        if self.rows:
            self._print(self.clock())

    def _print(self, now: float) -> None:
        means = {key: sum(r[key] for r in self.rows) / len(self.rows) for key in self.rows[-1]}
        pace = self._pace(self.rows[-1])
        values = _values({key: means[key] for key in means if key not in _PACE})
        self._say(f"{self._count(self.step)}: {values}{pace and f' ({pace})'}")
        self.rows, self.printed = [], now

    def _show(self, step: int, row: Mapping[str, float]) -> None:
        if self.bar is None:
            self.bar = _Bar(self.console, self.total)
        first = next(key for key in row if key not in _PACE)
        self.bar.show(step, self._pace(row), f"{first} {row[first]:.4g}")
        self.rows = [row]

    def _say(self, line: str) -> None:
        """A line; it goes above the bar, if there is one."""
        self.console.print(line, markup=False)

    def _count(self, step: int) -> str:
        name = self.unit.removesuffix("s")
        return f"{name} {step}" if self.total is None else f"{name} {step} of {self.total}"

    def _pace(self, row: Mapping[str, float]) -> str:
        """The rate, and the time to the last step or to the end of the minutes."""
        (start, before), (now, step) = self.seen[0], self.seen[-1]
        rate = row.get("rate", (step - before) / (now - start) if now > start else 0.0)
        if not rate > 0:
            return ""
        left = math.inf if self.total is None else (self.total - step) / rate
        left = min(60 * row.get("minutes_left", math.inf), left, max(0.0, self.end - now))
        return f"{rate:.3g} {self.unit}/s" + (
            f", {_time(left)} left" if 0.5 <= left < math.inf else ""
        )


class _Bar:
    """Steps, rate, time left and loss on one line of a terminal."""

    def __init__(self, console: Console, total: int | None) -> None:
        count = "{task.completed:.0f}" + ("" if total is None else "/{task.total:.0f}")
        columns = (BarColumn(), TextColumn(count), TextColumn("{task.fields[text]}", markup=False))
        self.progress = Progress(*columns, console=console, transient=True)
        self.task = self.progress.add_task("", total=total, text="")
        self.progress.start()

    def show(self, step: int, pace: str, value: str) -> None:
        text = "  ".join(part for part in (pace, value) if part)
        self.progress.update(self.task, completed=step, text=text)

    def stop(self) -> None:
        self.progress.stop()


def _values(row: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def plain_warnings(console: Console) -> Iterator[None]:
    """Within, a warning is one line of text, as an error is."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        console.print(f"warning: {message}", markup=False, highlight=False)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


@contextmanager
def shown(progress: TrainingProgress, output: Path, kept: Sequence[Path]) -> Iterator[None]:
    """Within, a run shows its progress and plain warnings; Ctrl-C says how to go on with it.

    Args:
        output: folder of the run. kept: the files of which one exists where it can go on.
    """
    try:
        with plain_warnings(progress.console):
            yield
    except KeyboardInterrupt:
        if any(path.exists() for path in kept):
            progress.close()
            progress.console.print(f"{output}: kept; go on with --resume", markup=False)
        raise
    finally:
        progress.close()


def refuse_run(output: Path, kept: Sequence[Path], resume: bool) -> None:
    """Raise TrainingError where a folder holds a run that was not asked for."""
    if any(path.exists() for path in kept) and not resume:
        raise TrainingError(f"{output}: holds a run; add --resume to go on, or choose another")

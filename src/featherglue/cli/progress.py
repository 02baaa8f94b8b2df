"""Progress of a long command: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from rich import progress as rich_progress
from rich.console import Console

from featherglue.cli.common import error_console, one_line

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
_RATE_UPDATES = 60  # number of updates that the rate is measured over
_BAR_WIDTH = 24


class ProgressDisplay:
    """Shows how far a command is, with its rate and the remaining time.

    On a terminal it is a bar that disappears at the end. Elsewhere it is a line every
    `line_seconds`, so a short command prints nothing.

    Args:
        description: name of the work, such as "matching".
        total: number of units of the whole work; None if it is unknown.
        unit: plural name of a unit, such as "pairs".
        enabled: False shows nothing.
        console: where to print; standard error by default.
        clock: returns seconds of any origin.
    """

    line_seconds = 30.0  # between two lines where there is no terminal

    def __init__(
        self,
        description: str,
        total: int | None = None,
        *,
        unit: str = "",
        enabled: bool = True,
        console: Console = error_console,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self._enabled, self._console = enabled, console
        self._clock = clock
        self._completed = 0
        self._last_line = clock()
        self._updates: deque[tuple[float, int]] = deque(
            [(self._last_line, 0)], maxlen=_RATE_UPDATES
        )
        self._bar: _Bar | None = None

    def update(
        self,
        completed: int,
        text: str = "",
        *,
        total: int | None = None,
        description: str | None = None,
    ) -> None:
        """Show that `completed` units are done.

        Args:
            completed: number of units that are done.
            text: more facts, shown behind the rate.
            total: replaces the total.
            description: replaces the description.
        """
        if description is not None and description != self.description:
            self.description = description
            self._updates.clear()  # another phase has another rate
        self.total = self.total if total is None else total
        self._completed = completed
        now = self._clock()
        self._updates.append((now, completed))
        if not self._enabled:
            return
        if self._console.is_terminal:
            if self._bar is None:
                self._bar = _Bar(self._console)
            self._bar.show(self.description, completed, self.total, _joined(self.pace(), text))
        elif now - self._last_line >= self.line_seconds:
            self._last_line = now
            self._console.print(self._line(text), markup=False)

    def advance(self, text: str = "") -> None:
        """Show that one more unit is done."""
        self.update(self._completed + 1, text)

    def track(self, items: Iterable[T]) -> Iterator[T]:
        """Yield the items; each counts as a unit once the next one is asked for."""
        for item in items:
            yield item
            self.advance()

    def print(self, line: str) -> None:
        """Print a line; on a terminal it goes above the bar."""
        self._console.print(one_line(line), markup=False)

    def pace(self) -> str:
        """Rate and remaining time, such as "3.2 pairs/s, 1:27 left"; "" if unknown."""
        (start, before), (now, completed) = self._updates[0], self._updates[-1]
        if now <= start or completed <= before:
            return ""
        rate = (completed - before) / (now - start)
        left = math.nan if self.total is None else (self.total - completed) / rate
        shown = f"{rate:.3g} {self.unit}/s" if self.unit else ""
        return _joined(shown, f"{clock_time(left)} left" if left >= 0.5 else "", between=", ")

    def _line(self, text: str) -> str:
        of = "" if self.total is None else f" of {self.total}"
        count = _joined(f"{self._completed}{of}", self.unit, between=" ")
        return f"{self.description}: {_joined(count, self.pace(), text, between=', ')}"

    def close(self) -> None:
        """Remove the bar. Can be called again."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class _Bar:
    """One line of a terminal: description, bar, count and text."""

    def __init__(self, console: Console) -> None:
        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("{task.description}", markup=False),
            rich_progress.BarColumn(bar_width=_BAR_WIDTH),
            rich_progress.TextColumn("{task.fields[count]}", markup=False),
            rich_progress.TextColumn("{task.fields[text]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task("", total=None, count="", text="")
        self._progress.start()

    def show(self, description: str, completed: int, total: int | None, text: str) -> None:
        """Show a state."""
        count = f"{completed}" if total is None else f"{completed}/{total}"
        self._progress.update(
            self._task,
            description=description,
            completed=completed,
            total=total,
            count=count,
            text=text,
        )

    def stop(self) -> None:
        """Remove the line."""
        self._progress.stop()


def clock_time(seconds: float) -> str:
    """A duration as "m:ss" or "h:mm:ss"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _joined(*parts: str, between: str = "  ") -> str:
    return between.join(part for part in parts if part)

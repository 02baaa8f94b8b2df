"""Progress, warnings and interruption of a training run."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from featherglue.cli.common import one_line_warnings
from featherglue.cli.progress import ProgressDisplay, clock_time
from featherglue.errors import TrainingError

_MEAN_REPORTS = 30  # number of reports that the shown metrics are averaged over
_VALIDATION = "validation "
# Reported by the stage "adapt" and shown in another way.
_PACE = ("rate", "minutes_left")


class TrainingProgress:
    """Shows the reports of a training stage: pass `report` to it, and call `close` at the end.

    Args:
        console: where to print.
        total: number of steps of the run; None if it is unknown.
        minutes: time limit of the run.
        unit: plural name of a unit, such as "steps".
        clock: returns seconds from any origin.
    """

    def __init__(
        self,
        console: Console,
        total: int | None,
        minutes: float = math.inf,
        unit: str = "steps",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console = console
        self._clock, self._end = clock, clock() + 60 * minutes
        self._unit, self._total = unit.removesuffix("s"), total
        self._display = ProgressDisplay("training", total, unit=unit, console=console, clock=clock)
        self._rows: deque[Mapping[str, float]] = deque(maxlen=_MEAN_REPORTS)
        self._step = 0

    def report(self, step: int, row: Mapping[str, float]) -> None:
        """Show a report of a stage. Results of validation get a line of their own."""
        if any(key.startswith(_VALIDATION) for key in row):
            results = {key.removeprefix(_VALIDATION): value for key, value in row.items()}
            self._display.print(f"{self._count(step)}: validation {_values(results)}")
            return
        self._step = step
        self._rows.append(row)
        self._display.update(step, self._text(row))

    def close(self) -> None:
        """Remove the bar, and print the last metrics. Can be called again."""
        self._display.close()
        if self._rows:
            self._display.print(f"{self._count(self._step)}: {self._metrics()}")
            self._rows.clear()

    def _text(self, row: Mapping[str, float]) -> str:
        """The metrics, and the time to the end if it does not follow from the number of steps."""
        left = min(60 * row.get("minutes_left", math.inf), self._end - self._clock())
        time_left = f"at most {clock_time(max(0.0, left))} left, " if left < math.inf else ""
        return time_left + self._metrics()

    def _metrics(self) -> str:
        names = [name for name in self._rows[-1] if name not in _PACE]
        rows = [row for row in self._rows if all(name in row for name in names)]
        return _values({name: sum(row[name] for row in rows) / len(rows) for name in names})

    def _count(self, step: int) -> str:
        of = "" if self._total is None else f" of {self._total}"
        return f"{self._unit} {step}{of}"


def _values(row: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in row.items())


@contextmanager
def show_training(
    progress: TrainingProgress, output: Path, resume_files: Sequence[Path]
) -> Iterator[None]:
    """Show progress and warnings of the run in the body, and explain resuming after Ctrl-C.

    Args:
        progress: shows the reports of the stage.
        output: folder of the run.
        resume_files: the files of which one exists if the run can be resumed.
    """
    try:
        with one_line_warnings(progress.console):
            yield
    except KeyboardInterrupt:
        if any(path.exists() for path in resume_files):
            progress.close()
            progress.console.print(f"{output}: saved; resume it with --resume", markup=False)
        raise
    finally:
        progress.close()


def require_resume(output: Path, resume_files: Sequence[Path], resume: bool) -> None:
    """Raise TrainingError if a folder holds a run, and `--resume` is not given."""
    if any(path.exists() for path in resume_files) and not resume:
        raise TrainingError(
            f"{output}: holds a run; add --resume to resume it, or choose another folder"
        )

"""What a training shows of itself."""

from __future__ import annotations

import io
import re
import warnings

import pytest
from rich.console import Console

from featherglue.cli.train_progress import TrainingProgress, plain_warnings


class Clock:
    """Stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(
    progress: TrainingProgress, clock: Clock, seconds: int, first: int = 0, minute: float = 0
) -> None:
    """Two steps a second, reported every second."""
    for i in range(seconds + 1):
        clock.now = 100.0 + i
        row = {"loss": 2.0 if i else 4.0, "recall": 0.5}
        progress.report(first + 2 * i, row | ({"minutes_left": minute} if minute else {}))


def test_lines_come_every_half_minute_and_in_the_end() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), 1000, clock=clock)
    run(progress, clock, 70, first=500)
    progress.close()
    progress.close()
    assert out.getvalue().splitlines() == [
        "step 500 of 1000: loss 4, recall 0.5",
        "step 560 of 1000: loss 2, recall 0.5 (2 steps/s, 3:40 left)",
        "step 620 of 1000: loss 2, recall 0.5 (2 steps/s, 3:10 left)",
        "step 640 of 1000: loss 2, recall 0.5 (2 steps/s, 3:00 left)",
    ]


def test_the_minutes_may_end_a_run_first() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), 10_000, minutes=2, clock=clock)
    run(progress, clock, 30)
    assert "step 60 of 10000: loss 2, recall 0.5 (2 steps/s, 1:30 left)" in out.getvalue()


def test_validation_has_lines_of_its_own() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), 10, clock=clock)
    progress.report(5, {"validation auc5": 12.345, "validation recall": 0.5})
    progress.close()
    assert out.getvalue() == "step 5 of 10: validation auc5 12.35, recall 0.5\n"


def test_labelling_counts_photographs_at_the_pace_that_it_reports() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), None, unit="photographs", clock=clock)
    progress.report(7, {"labels": 30.0, "rate": 0.5, "minutes_left": 61.0})
    assert out.getvalue() == "photograph 7: labels 30 (0.5 photographs/s, 1:01:00 left)\n"


def test_a_terminal_has_a_bar_with_step_rate_time_and_loss() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    progress = TrainingProgress(console, 1000, clock=clock)
    run(progress, clock, 5)
    progress.report(10, {"validation auc5": 50.0})
    assert progress.bar is not None
    progress.bar.progress.refresh()
    progress.close()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", out.getvalue())
    assert "10/1000 2 steps/s, 8:15 left  loss 2" in shown
    assert "step 10 of 1000: validation auc5 50" in shown
    assert shown.rstrip().endswith("step 10 of 1000: loss 2, recall 0.5 (2 steps/s, 8:15 left)")


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with plain_warnings(Console(file=out, width=200)):
        warnings.warn("skipped 2 images: a.png, b.png", stacklevel=1)
    assert out.getvalue() == "warning: skipped 2 images: a.png, b.png\n"
    assert capsys.readouterr().err == ""

"""Progress of a training run."""

from __future__ import annotations

import io
import re
import warnings

import pytest
from rich.console import Console

from featherglue.cli.common import one_line_warnings
from featherglue.cli.train_progress import TrainingProgress


class Clock:
    """Returns a time that the test sets."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def run(progress: TrainingProgress, clock: Clock, seconds: int) -> None:
    """Two steps per second, reported every second."""
    for i in range(seconds + 1):
        clock.now = 100.0 + i
        progress.report(2 * i, {"loss": 4.0 if i < 40 else 2.0, "recall": 0.5})


def test_lines_have_the_mean_of_recent_reports_and_the_last_one_is_always_printed() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), 1000, clock=clock)
    run(progress, clock, 70)
    progress.close()
    progress.close()
    assert out.getvalue().splitlines() == [
        "training: 60 of 1000 steps, 2 steps/s, 7:50 left, loss 4, recall 0.5",
        "training: 120 of 1000 steps, 2 steps/s, 7:20 left, loss 2.6, recall 0.5",
        "step 140 of 1000: loss 2, recall 0.5",
    ]


def test_a_time_limit_shows_the_remaining_time() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), None, minutes=2, clock=clock)
    run(progress, clock, 30)
    assert "60 steps, 2 steps/s, at most 1:30 left, loss 4" in out.getvalue()


def test_validation_has_its_own_lines() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), 10, clock=clock)
    progress.report(5, {"validation auc5": 12.345, "validation recall": 0.5})
    progress.close()
    assert out.getvalue() == "step 5 of 10: validation auc5 12.35, recall 0.5\n"


def test_labeling_counts_photographs() -> None:
    clock, out = Clock(), io.StringIO()
    progress = TrainingProgress(Console(file=out, width=200), None, unit="photographs", clock=clock)
    clock.now += 40
    progress.report(20, {"labels": 30.0, "rate": 0.5, "minutes_left": 61.0})
    progress.close()
    assert out.getvalue().splitlines() == [
        "training: 20 photographs, 0.5 photographs/s, at most 1:01:00 left, labels 30",
        "photograph 20: labels 30",
    ]


def test_a_terminal_has_a_bar() -> None:
    clock, out = Clock(), io.StringIO()
    console = Console(file=out, width=120, force_terminal=True, color_system=None)
    progress = TrainingProgress(console, 1000, clock=clock)
    run(progress, clock, 5)
    progress.report(10, {"validation auc5": 50.0})
    progress.close()
    shown = re.sub(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", "", out.getvalue())
    assert "step 10 of 1000: validation auc5 50" in shown
    assert shown.rstrip().endswith("step 10 of 1000: loss 4, recall 0.5")


def test_warnings_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    out = io.StringIO()
    with one_line_warnings(Console(file=out, width=200)):
        warnings.warn("skipped 2 images: a.png, b.png", stacklevel=1)
    assert out.getvalue() == "warning: skipped 2 images: a.png, b.png\n"
    assert capsys.readouterr().err == ""

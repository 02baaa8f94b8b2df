"""The progress of long commands."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from featherglue.cli.progress import ProgressDisplay, clock_time


class Clock:
    """A clock that only advances on request."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Console:
    """Where there is no terminal."""
    return Console(file=StringIO(), width=80)


def test_a_line_now_and_then_where_there_is_no_terminal(clock: Clock, log: Console) -> None:
    with ProgressDisplay("matching", 400, unit="pairs", console=log, clock=clock) as progress:
        for _ in range(100):
            clock.now += 1
            progress.advance()
    assert printed(log).splitlines() == [
        "matching: 30 of 400 pairs, 1 pairs/s, 6:10 left",
        "matching: 60 of 400 pairs, 1 pairs/s, 5:40 left",
        "matching: 90 of 400 pairs, 1 pairs/s, 5:10 left",
    ]


def test_a_short_command_prints_nothing(clock: Clock, log: Console) -> None:
    with ProgressDisplay("matching", 3, console=log, clock=clock) as progress:
        assert list(progress.track("abc")) == ["a", "b", "c"]
    assert printed(log) == ""


def test_an_unknown_total_and_more_facts(clock: Clock, log: Console) -> None:
    progress = ProgressDisplay("reading", unit="frames", console=log, clock=clock)
    clock.now += 40
    progress.update(100, "matches 12")
    assert printed(log) == "reading: 100 frames, 2.5 frames/s, matches 12\n"


def test_another_phase_has_another_rate(clock: Clock, log: Console) -> None:
    progress = ProgressDisplay("features", 10, unit="pairs", console=log, clock=clock)
    clock.now += 1
    progress.update(10)
    assert progress.pace() == "10 pairs/s"
    progress.update(0, description="scores", total=50)
    assert progress.pace() == ""
    clock.now += 10
    progress.update(5)
    assert progress.pace() == "0.5 pairs/s, 1:30 left"


def test_a_terminal_shows_a_bar_that_goes_away(clock: Clock) -> None:
    terminal = Console(file=StringIO(), force_terminal=True, width=80)
    with ProgressDisplay("matching", 4, unit="pairs", console=terminal, clock=clock) as progress:
        clock.now += 2
        progress.update(2, "matches 12")
        progress.print("skipped: a.png")
    assert "skipped: a.png" in printed(terminal)
    assert "2/4" in printed(terminal)
    assert "1 pairs/s, 0:02 left  matches 12" in printed(terminal)
    progress.close()


def test_a_disabled_display_prints_only_lines(clock: Clock, log: Console) -> None:
    progress = ProgressDisplay("matching", 4, console=log, enabled=False, clock=clock)
    clock.now += 100
    progress.advance()
    progress.print("warning: damaged")
    assert printed(log) == "warning: damaged\n"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7265, "2:01:05")]
)
def test_durations(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text

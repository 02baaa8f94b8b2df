"""Ctrl-C and SIGTERM during training: the step is finished and a checkpoint written."""

from __future__ import annotations

import os
import signal

import pytest

from featherglue.terminal import signals
from featherglue.train.engine.interrupt import deferred_interrupt


@pytest.fixture(autouse=True)
def _no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_received", [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_deferred_and_the_second_raises(
    number: signal.Signals, code: int
) -> None:
    before = signal.getsignal(number)
    with deferred_interrupt() as interrupted:
        assert not interrupted()
        os.kill(os.getpid(), number)
        assert interrupted()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before
    assert signals.exit_code() == code


def test_one_of_several_processes_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = signal.getsignal(signal.SIGTERM)
    with deferred_interrupt():
        assert signal.getsignal(signal.SIGTERM) == before

"""Calling the command line as from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from featherglue.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Run:
    """call(*arguments): exit code, standard output and standard error; never a traceback."""

    def calling(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err + captured.out
        assert "internal error" not in captured.err
        return code, captured.out, captured.err

    return calling


@pytest.fixture
def run(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `call`, within `tmp_path` and with wide lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return call

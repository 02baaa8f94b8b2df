"""Calling the command line as from a shell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
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
    """As `call`, in `tmp_path`, with wide lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return call


@pytest.fixture
def run_in_empty_folder(call: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """As `call`, in an empty folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("COLUMNS", "120")
    return call


@pytest.fixture
def frames(tmp_path: Path, gray: np.ndarray) -> Path:
    """A folder of three overlapping frames and a text file."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(3):
        cv2.imwrite(str(folder / f"{i}.png"), gray[8 * i : 200 + 8 * i, 16 * i : 240 + 16 * i])
    (folder / "notes.txt").write_text("no image")
    return folder

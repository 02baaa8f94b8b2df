"""The demo of `make demo`."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import pytest

DEMO = Path(__file__).parents[2] / "examples" / "demo.py"


def test_the_demo_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    demo = runpy.run_path(str(DEMO))
    assert demo["main"]() == 0
    lines = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines())
    assert list(lines) == ["keypoints", "matches", "error", "time", "picture"]
    assert int(lines["matches"].partition(",")[0]) > 100
    assert float(lines["error"].partition(" ")[0]) < 2
    assert cv2.imread(lines["picture"]) is not None

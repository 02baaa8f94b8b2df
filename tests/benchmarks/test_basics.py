"""benchmarks/basics.py on two frames."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.mark.slow
def test_times_and_sizes_are_measured(
    load_script: Callable[[str], ModuleType],
    frames: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("basics")
    environment = frames.parent / "environment"
    environment.mkdir()
    (environment / "file").write_bytes(bytes(1234))
    monkeypatch.setattr(script.sys, "prefix", str(environment))
    monkeypatch.setattr(script, "SIZE", (320, 240))
    arguments = [str(frames / "0.png"), str(frames / "1.png"), "--threads", "1"]
    script.main([*arguments, "--num-repetitions", "1"])
    report = json.loads(capsys.readouterr().out)
    assert report["environment_bytes"] == 1234
    assert 100_000 < report["fast_bytes"] < 10_000_000
    assert 0 < report["cold_start_match_seconds"] < 60
    assert report["import_seconds"] < report["cold_start_match_seconds"]
    milliseconds = report["milliseconds"]
    assert {"extractor", "matcher", "refine", "total"} < set(milliseconds)
    assert milliseconds["extractor"] + milliseconds["matcher"] <= milliseconds["total"]
    (refinement,) = (name for name in milliseconds if name.startswith("refine "))
    assert int(refinement.split()[1]) > 100  # matches

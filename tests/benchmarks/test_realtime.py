"""benchmarks/realtime.py on five frames, the minimum."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from featherglue.artifact.registry import find_model
from featherglue.io.image import resize_gray


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("realtime")


def half_size(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return resize_gray(image, (size[0] // 2, size[1] // 2))


@pytest.mark.slow
def test_all_contenders_are_measured(
    script: ModuleType,
    frames: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "resize_gray", half_size)
    out = tmp_path / "out.json"
    arguments = ["--dense", str(find_model("fast")), "--num-rounds", "1", "--threads", "1"]
    script.main([str(frames), *arguments, "--json", str(out)])
    found = json.loads(out.read_text())
    assert found["threads"] == 1
    rows = found["rows"]
    assert {"fast", "fast, lookahead", "balanced, 1024", "SIFT", "dense, PyTorch"} < set(rows)
    assert rows["fast"]["vs fast"] == 1
    for label, row in rows.items():
        assert 0 < row["ms_p5"] <= row["ms"] <= row["ms_p95"] < 10_000, label
        assert row["frames_per_second"] == pytest.approx(1e3 / row["ms"])
        assert row["latency"] > 0 and row["matches"] > 30, label
    for label in ("fast", "dense, PyTorch"):
        stages = rows[label]["stages"]
        assert 0 < stages["extractor"] + stages["matcher"] <= rows[label]["ms"]
    # The same networks on another runtime find the same matches.
    assert rows["dense, PyTorch"]["matches"] == pytest.approx(rows["fast"]["matches"], rel=0.1)
    printed = capsys.readouterr().out
    assert all(f"| {label} |" in printed for label in rows)


def test_few_frames_are_refused(
    script: ModuleType, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (frames / "4.png").unlink()
    with pytest.raises(SystemExit):
        script.main([str(frames)])
    assert "at least 5 frames" in capsys.readouterr().err

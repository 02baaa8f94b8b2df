"""benchmarks/soak.py over five frames, looped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("soak")
    monkeypatch.setattr(module, "WARM_UP", 4)
    return module


@pytest.mark.slow
def test_memory_and_speed_are_sampled(script: ModuleType, frames: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    arguments = [str(frames), "--num-frames", "13", "--every", "5", "--max-keypoints", "100"]
    arguments += ["--threads", "1", "--max-growth", "1000", "--max-memory", "100000"]
    assert script.main([*arguments, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    samples = found["samples"]
    assert [sample["frames"] for sample in samples] == [0, 4, 5, 10, 13]
    seconds = [sample["seconds"] for sample in samples]
    assert seconds == sorted(seconds) and seconds[-1] > 0
    assert all(sample["memory"] > 50e6 for sample in samples)
    assert found["frames"] == 13 and found["frames_per_second"] > 0.1
    assert found["matches"] > 30 and found["tracks"] > 30
    assert 0 <= found["growth"] < found["peak"] and not found["failures"]


@pytest.mark.slow
def test_too_much_memory_is_an_error(
    script: ModuleType, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(frames), "--num-frames", "5", "--max-keypoints", "50", "--threads", "1"]
    assert script.main([*arguments, "--max-memory", "1"]) == 1
    assert "error: memory reached" in capsys.readouterr().err


def test_growth_counts_from_the_warm_up(script: ModuleType) -> None:
    memory = {0: 1_000_000, 4: 50_000_000, 9: 80_000_000, 13: 60_000_000}
    samples = [{"frames": frames, "memory": bytes_} for frames, bytes_ in memory.items()]
    found = script.check_memory(samples, max_growth=20, max_memory=1e9)
    assert found["growth"] == 30_000_000
    assert found["failures"] == ["memory grew by 30.0 MB, more than 20 MB"]
    assert not script.check_memory(samples, max_growth=30, max_memory=1e9)["failures"]

"""benchmarks/repeatability.py on two photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("repeatability")


@pytest.mark.slow
def test_detectors_are_repeatable(
    script: ModuleType,
    val: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(script, "SIZE", (320, 240))
    script.main([str(val), "--num-pairs", "1", "--max-keypoints", "60", "--threads", "1"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith(" |")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    found = [
        (label, float(share), float(chance)) for label, share, chance in rows if share[0] != "r"
    ]
    labels = [label for label, _, _ in found]
    each = ["fast", "fast, spaced", "SIFT", "SIFT, spaced", "ORB", "ORB, spaced"]
    assert labels == each * 2  # without and with changed light
    for label, share, chance in found:
        assert 0 <= chance < 20 and 40 < share <= 100, label


def test_spaced_points(script: ModuleType) -> None:
    points = np.array([[0, 0], [3, 3], [3, 4], [20, 0], [40, 0]], np.float32)
    assert script.spaced(points, 4, 3).tolist() == [[0, 0], [3, 4], [20, 0]]
    assert len(script.spaced(points, 4, 9)) == 4
    assert script.spaced(points[:0], 4, 9).shape == (0, 2)

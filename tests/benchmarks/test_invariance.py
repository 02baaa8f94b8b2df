"""benchmarks/invariance.py on two small photographs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("invariance")


@pytest.mark.slow
def test_the_table_is_measured(
    script: ModuleType,
    photographs: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("camera", "coffee"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), photographs[name])
    monkeypatch.setattr(script, "SIZE", (240, 180))
    monkeypatch.setattr(script, "DEGREES", (0, 180))
    monkeypatch.setattr(script, "FACTORS", (0.5,))
    out = tmp_path / "out.json"
    arguments = [str(tmp_path), "--num-photos", "2", "--max-keypoints", "200", "--threads", "1"]
    script.main([*arguments, "--json", str(out)])
    measured = json.loads(out.read_text())
    assert list(measured) == ["rotated by 0°", "rotated by 180°", "scaled to 0.5", "unrelated"]
    turned = measured["rotated by 180°"]
    assert turned["fast, search"]["true"] > 1.15 * turned["fast"]["true"]
    assert measured["unrelated"]["SIFT"]["true"] == 0
    assert len(capsys.readouterr().out.splitlines()) == 6


def test_changes_have_exact_homographies(script: ModuleType) -> None:
    image = np.zeros((60, 80), np.uint8)
    image[20:23, 30:33] = 255  # center (31, 21)
    for changed, H in (script.rotated(image, 90), script.shrunk(image, 0.5)):
        x, y, w = H @ (31, 21, 1)
        rows, columns = np.nonzero(changed)
        weights = changed[rows, columns].astype(float)
        center = np.average(columns, weights=weights), np.average(rows, weights=weights)
        assert center == (pytest.approx(x / w, abs=0.1), pytest.approx(y / w, abs=0.1))

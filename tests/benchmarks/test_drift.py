"""benchmarks/drift.py on a camera that moved by a pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest


@pytest.mark.slow
def test_the_displacement_of_a_camera(
    load_script: Callable[[str], ModuleType],
    photographs: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "i_scene"
    folder.mkdir()
    gray = np.ascontiguousarray(photographs["camera"][:320, :400])
    image = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR)
    shift = np.array([[1, 0, 0.6], [0, 1, -0.8]])
    moved = cv2.warpAffine(image, shift, (400, 320), flags=cv2.INTER_CUBIC)
    cv2.imwrite(str(folder / "1.ppm"), image)
    for number in range(2, 7):
        cv2.imwrite(str(folder / f"{number}.ppm"), moved)
        np.savetxt(folder / f"H_1_{number}", np.eye(3))
    load_script("drift").main([str(tmp_path), "--num-keypoints", "300"])
    lines = capsys.readouterr().out.splitlines()
    x, y, spread = map(float, lines[1].split(" | ")[1:])
    assert (x, y) == pytest.approx((0.6, -0.8), abs=0.1)
    assert spread < 0.3
    exact, given, displaced = (float(line.split("AUC@3 ")[1].split()[0]) for line in lines[-3:])
    assert exact == pytest.approx(100 * (1 - 1 / 3), abs=5)
    assert given < displaced

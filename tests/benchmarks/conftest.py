"""Loads the scripts of `benchmarks/`, and writes small inputs for them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def load_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """load_script(name): the module of benchmarks/<name>.py."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")  # some scripts set it; restored afterward
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        unique = f"benchmark_script_{name}"
        spec = importlib.util.spec_from_file_location(unique, FOLDER / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, unique, module)  # dataclasses look their module up
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def frames(photographs: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """A folder of five frames, 320×240, of a camera that moves over a photograph."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for k in range(5):
        frame = photographs["camera"][4 * k : 4 * k + 240, 6 * k : 6 * k + 320]
        cv2.imwrite(str(folder / f"{k}.png"), frame)
    return folder


@pytest.fixture
def val(photographs: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """Two photographs, and `homographies.txt` for images of 320×240."""
    folder = tmp_path / "val"
    folder.mkdir()
    lines = []
    for name, H in (("camera", "1 0.05 8 -0.05 1 6 0 0 1"), ("coffee", "0.9 0 10 0 0.9 5 0 0 1")):
        image = cv2.resize(photographs[name], (320, 240), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}.png"), image)
        lines.append(f"{name}.png {H}\n")
    (folder / "homographies.txt").write_text("".join(lines))
    return folder

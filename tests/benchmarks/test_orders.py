"""benchmarks/orders.py on two photographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest


@pytest.mark.slow
def test_random_orders_of_the_matches(
    load_script: Callable[[str], ModuleType],
    val: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("orders")
    monkeypatch.setattr(script, "SIZE", (320, 240))
    script.main([str(val), "--models", "fast", "--num-orders", "3", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.split(" / ") for cell in line.split(" | ")[1:]] for line in lines[2:]]
    figures = np.array([[[x.strip(" |") for x in cell] for cell in row] for row in rows], float)
    assert figures.shape == (2, 3, 3)  # without and with local optimization
    own, mean, deviation = figures.transpose(1, 0, 2)
    for areas in (own, mean):
        assert (np.diff(areas) >= 0).all() and (areas[:, 2] > 90).all() and (areas <= 100).all()
    assert (deviation < 5).all() and (deviation[0] > 0).any()
    np.testing.assert_allclose(own, mean, atol=5)


def test_too_few_matches_have_an_infinite_error(load_script: Callable[[str], ModuleType]) -> None:
    points = np.zeros((2, 2), np.float32)
    assert load_script("orders").error(points, points, np.eye(3), False) == np.inf

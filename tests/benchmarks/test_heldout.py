"""benchmarks/heldout.py on scenes of crops of a photograph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("heldout")


@pytest.fixture
def measure(
    script: ModuleType,
    photographs: dict[str, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, float]]:
    """The printed figures by name."""
    for k in range(20):  # the minimum number for training
        crop = photographs["camera"][10 * k : 10 * k + 240, 8 * k : 8 * k + 320]
        cv2.imwrite(str(tmp_path / f"{k}.png"), crop)
    monkeypatch.setattr(script, "SIZE", (320, 240))

    def run(*arguments: str) -> dict[str, float]:
        script.main([str(tmp_path), "--num-scenes", "6", "--threads", "1", *arguments])
        lines = capsys.readouterr().out.splitlines()
        return {name.strip(): float(value) for name, value in (s.rsplit(" ", 1) for s in lines)}

    return run


@pytest.mark.slow
def test_matches_are_compared_with_the_truth(measure: Callable[..., dict[str, float]]) -> None:
    found = measure()
    assert 30 < found["precision at 1 px, %"] <= found["precision at 3 px, %"] <= 100
    assert 15 < found["matches within 1 px"] <= found["matches within 3 px"] <= 512
    assert 0 < found["median error, px"] < 1
    assert found["solvable, %"] > 40


@pytest.mark.slow
def test_settings_of_the_session(measure: Callable[..., dict[str, float]]) -> None:
    filtered = measure("--max-keypoints", "200", "--match-threshold", "0")
    every = measure("--max-keypoints", "200", "--match-threshold", "0", "--no-consensus")
    assert every["precision at 3 px, %"] < filtered["precision at 3 px, %"]
    strict = measure("--max-keypoints", "200", "--match-threshold", "0.99", "--no-refine")
    assert strict["matches within 3 px"] < filtered["matches within 3 px"]


def test_errors_of_visible_and_hidden_points(script: ModuleType) -> None:
    width, height = script.SIZE
    planes0 = np.zeros((height, width), np.uint8)
    planes0[:, :10] = script.NO_PLANE
    planes1 = np.zeros((height, width), np.uint8)
    planes1[:, 300:] = 1  # hides plane 0
    shift = np.array([[1, 0, 50], [0, 1, 0], [0, 0, 1]], np.float32)
    sample = {"planes0": planes0, "planes1": planes1, "maps": np.stack([shift, shift])}
    points0 = np.array([[5, 5], [100, 20], [260, 20], [width - 9, 20]], np.float32)
    points1 = points0 + np.array([50, 2], np.float32)
    assert script.errors(sample, points0, points1).tolist() == [2, np.inf, np.inf]
    none = np.zeros((0, 2), np.float32)
    assert script.errors(sample, none, none).shape == (0,)


def test_summary_of_scenes_without_a_true_match(script: ModuleType) -> None:
    found = script.summary([np.array([np.inf, 9.0]), np.array([])])
    assert found["precision at 3 px, %"] == found["solvable, %"] == 0
    assert np.isnan(found["median error, px"])

"""The picture of a run's logs."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from torch import nn
from toy_training import Numbers, loss_of, network

from featherglue.errors import MissingExtraError
from featherglue.train.engine.curves import draw_curves, smooth
from featherglue.train.engine.log_files import append_row
from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig

CONFIG = LoopConfig(steps=2, batch_size=2, workers=0, bf16=False, validate_steps=1)


def write_logs(folder: Path, rows: int = 60, seed: int = 0) -> None:
    """Write the logs of a simulated run whose loss decreases."""
    rng = np.random.default_rng(seed)
    for i in range(rows):
        loss = 4 * np.exp(-i / 25) + 0.5 + 0.3 * rng.random()
        recall = 1 - np.exp(-i / 30) - 0.1 * rng.random()
        row = {"loss": loss, "detector": loss / 2, "matched": max(0.0, recall)}
        append_row(folder / "log.csv", {"step": 10 * i, "seconds": i, **row})
    for i in range(5):
        row = {"score": 40.0 + i, "auc5": 20.0 + i, "auc10": 40.0 + i, "precision": 0.1 * i}
        append_row(folder / "validation.csv", {"step": 100 * i, **row})


def test_picture_of_a_run(tmp_path: Path) -> None:
    def validate(average: nn.Module) -> dict[str, float]:
        return {"score": 50.0, "auc10": 50.0, "precision": 0.5}

    train(network(), loss_of, Numbers(), CONFIG, tmp_path, validate=validate)
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture is not None
    assert picture.shape[1] > 1000
    assert picture.std() > 5


def test_panels_of_logged_metrics(tmp_path: Path) -> None:
    assert draw_curves(tmp_path) is None
    write_logs(tmp_path, rows=1)
    (tmp_path / "validation.csv").unlink()
    assert draw_curves(tmp_path) is None  # a point is no curve
    (tmp_path / "log.csv").unlink()
    write_logs(tmp_path)
    assert draw_curves(tmp_path) == tmp_path / "curves.png"
    whole = cv2.imread(str(tmp_path / "curves.png"))
    (tmp_path / "validation.csv").unlink()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("600,1")  # cut off by a full disk
    draw_curves(tmp_path)
    half = cv2.imread(str(tmp_path / "curves.png"))
    assert whole is not None and half is not None
    assert whole.shape[0] == pytest.approx(2 * half.shape[0], abs=2)


def test_smoothing_takes_means_of_neighbors() -> None:
    line = np.arange(9.0)
    np.testing.assert_allclose(smooth(line, 1), line)
    np.testing.assert_allclose(smooth(line, 5), [1, 1.5, 2, 3, 4, 5, 6, 6.5, 7])
    np.testing.assert_allclose(smooth(np.array([3.0, 0, 3, 0, 3]), 3), [1.5, 2, 1, 2, 1.5])


def test_missing_matplotlib_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_logs(tmp_path)
    with pytest.raises(MissingExtraError, match=r"featherglue\[plots\]"):
        draw_curves(tmp_path)

    def validate(average: nn.Module) -> dict[str, float]:
        return {"score": 50.0}

    with pytest.warns(UserWarning, match=r"pip install 'featherglue\[plots\]'") as message:
        train(network(), loss_of, Numbers(), CONFIG, tmp_path / "run", validate=validate)
    assert len(message) == 1
    assert (tmp_path / "run" / "last.pt").exists()
    assert not (tmp_path / "run" / "curves.png").exists()

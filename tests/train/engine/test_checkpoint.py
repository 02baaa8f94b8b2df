"""Checkpoints: atomic, and rejected if damaged or of another network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from toy_training import CONFIG, Numbers, loss_of, network, run

from featherglue.errors import OutputError, TrainingError
from featherglue.train.engine.loop import train


def test_a_checkpoint_of_another_network_is_rejected(tmp_path: Path) -> None:
    run(tmp_path)
    before = (tmp_path / "last.pt").read_bytes()
    with pytest.raises(TrainingError, match="another network"):
        train(network(width=5), loss_of, Numbers(), CONFIG, tmp_path)
    with pytest.raises(TrainingError, match="another network"):
        train(nn.Sequential(*list(network())[:2]), loss_of, Numbers(), CONFIG, tmp_path)
    assert (tmp_path / "last.pt").read_bytes() == before


@pytest.mark.parametrize("fraction", [0.0, 0.5])
def test_a_damaged_checkpoint_is_reported(fraction: float, tmp_path: Path) -> None:
    run(tmp_path)
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * fraction)])
    with pytest.raises(TrainingError, match=r"last\.pt"):
        train(network(), loss_of, Numbers(), CONFIG, tmp_path)


_open = Path.open


def full(path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
    """`Path.open` on a full disk."""
    if path.name.endswith(".partial"):
        _open(path, mode).close()
        raise OSError(28, "No space left on device")
    return _open(path, mode, *rest, **options)


def test_checkpoints_are_written_atomically(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, [3])
    before = (tmp_path / "last.pt").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OutputError) as caught:
        patch.setattr(Path, "open", full)
        train(network(), loss_of, Numbers(), CONFIG, tmp_path)
    message = str(caught.value)
    assert "No space left on device" in message
    assert "resume the run" in message
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.partial"))
    train(network(), loss_of, Numbers(), CONFIG, tmp_path)  # the run can resume
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == CONFIG.steps

"""Errors of a training run are one line, and its checkpoint is preserved."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.cli import main
from featherglue.io.partial import PartialFile
from featherglue.train.losses.superpoint_loss import SuperPointLoss

STAGE = """
[loop]
steps = 2
batch_size = 1
workers = 0
bf16 = false
[architecture]
channels = [4, 4, 4, 4, 4, 4, 8, 8]
detector_channels = 8
descriptor_channels = 8
descriptor_dim = 8
[views]
size = [64, 64]
max_points = 8
[validation]
fraction = 0
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def images(tmp_path: Path, gray: np.ndarray) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(2):
        cv2.imwrite(str(folder / f"{i}.png"), gray[i : i + 100, :120])
    return folder


@pytest.fixture
def run(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*more: str, stage: str = STAGE, name: str = "run", folder: Path = images) -> Any:
        (tmp_path / "stage.toml").write_text(stage, encoding="utf-8")
        command = ["train", "superpoint", "--config", str(tmp_path / "stage.toml")]
        command += ["--images", str(folder), "--device", "cpu", "-o", str(tmp_path / name), *more]
        code = main(command)
        printed = capsys.readouterr().err
        assert "Traceback" not in printed
        assert "internal error" not in printed
        return code, printed

    return call


def test_missing_photographs(run: Run, tmp_path: Path) -> None:
    empty, broken = tmp_path / "empty", tmp_path / "broken"
    empty.mkdir()
    broken.mkdir()
    (broken / "a.jpg").write_bytes(b"broken")
    for folder, printed in (
        (empty, "no images in this folder"),
        (tmp_path / "nowhere", "no such folder"),
        (broken, "no usable image"),
    ):
        code, error = run(folder=folder)
        assert code == 1
        assert printed in error
        assert str(folder) in error
    assert not (tmp_path / "run").exists()


def test_broken_photographs_are_counted_named_and_skipped(run: Run, images: Path) -> None:
    (images / "torn.png").write_bytes((images / "0.png").read_bytes()[:100])
    (images / "none.jpg").write_bytes(b"")
    code, printed = run()
    assert code == 0
    assert "warning: " in printed
    assert "skipped 2 images" in printed
    assert "none.jpg, torn.png" in printed
    assert ".py" not in printed


def test_too_few_photographs_for_validation(run: Run) -> None:
    code, printed = run(stage=STAGE.replace("fraction = 0", "fraction = 0.1"))
    assert code == 1
    assert "has 2 photographs, too few" in printed
    assert "fraction = 0" in printed


def test_an_unknown_key_is_named(run: Run) -> None:
    code, printed = run(stage=STAGE + "speed = 3\n")
    assert code == 2
    assert "unknown key 'speed'" in printed


def test_run_of_another_network_is_not_resumed(run: Run, tmp_path: Path) -> None:
    assert run()[0] == 0
    kept = (tmp_path / "run" / "last.pt").read_bytes()
    other = STAGE.replace("descriptor_dim = 8", "descriptor_dim = 4")
    code, printed = run("--resume", stage=other)
    assert (code, "other settings (architecture.descriptor_dim)" in printed) == (1, True)
    assert run(stage=other, name="other")[0] == 0
    (tmp_path / "run" / "last.pt").write_bytes((tmp_path / "other" / "last.pt").read_bytes())
    code, printed = run("--resume")
    assert (code, "a checkpoint of another network" in printed) == (1, True)
    (tmp_path / "run" / "last.pt").write_bytes(kept)
    assert run("--resume")[0] == 0
    narrow = STAGE.replace("channels = [4, 4,", "channels = [2, 4,")
    start = f'start = "{tmp_path / "run" / "model"}"\n'
    code, printed = run(stage=start + narrow, name="third")
    assert (code, "another architecture" in printed) == (1, True)
    (tmp_path / "run" / "stage.json").write_text("{", encoding="utf-8")
    code, printed = run("--resume")
    assert (code, "stage.json: damaged" in printed) == (1, True)


def test_full_disk_preserves_the_last_checkpoint(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--minutes", "0")[0] == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    replace = PartialFile.replace

    def full(partial: PartialFile, path: Path) -> None:
        if path.name == "last.pt":
            raise OSError(28, "No space left on device")
        replace(partial, path)

    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "replace", full)
        code, printed = run("--resume")
    assert code == 1
    assert "No space left on device" in printed
    assert "resume the run" in printed
    assert (tmp_path / "run" / "last.pt").read_bytes() == before
    assert run("--resume")[0] == 0
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 2
    load_artifact(tmp_path / "run" / "model")


def test_ctrl_c_saves_the_step_and_explains_resuming(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SuperPointLoss.from_outputs

    def pressed(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGINT)
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(SuperPointLoss, "from_outputs", pressed)
        code, printed = run()
    assert code == 130
    assert "resume it with --resume" in printed
    assert printed.rstrip().endswith("stopped")
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 1
    code, printed = run()
    assert (code, "add --resume" in printed) == (1, True)
    assert run("--resume")[0] == 0

"""The stage "shapes"."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.cli import main
from featherglue.config import ArchitectureConfig
from featherglue.data.synthetic_shapes import ShapesConfig
from featherglue.errors import TrainingError, UsageError
from featherglue.models.model import Model
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.losses.magicpoint_loss import ShapesLoss
from featherglue.train.stages.shapes_stage import ShapesStage, train_shapes


@pytest.fixture
def stage(models: dict[str, Model]) -> ShapesStage:
    architecture = models["four-heads"].architecture.extractor
    assert architecture is not None
    loop = LoopConfig(steps=12, batch_size=4, warmup=1, workers=0, bf16=False, learning_rate=5e-3)
    return ShapesStage(
        loop=loop, architecture=architecture, shapes=ShapesConfig(size=(64, 48)), seed=4
    )


def test_detector_learns_and_descriptors_are_unchanged(tmp_path: Path, stage: ShapesStage) -> None:
    rows: list[dict[str, float]] = []
    torch.manual_seed(4)
    before = Model.build(ArchitectureConfig(extractor=stage.architecture)).to_artifact().arrays
    trained = train_shapes(stage, None, tmp_path, report=lambda step, row: rows.append(row))
    changed = {
        name
        for name, array in trained.to_artifact().arrays.items()
        if (array != before[name]).any()
    }
    assert {"extractor.conv1a.weight", "extractor.convPb.bias", "extractor.bn4b.running_mean"} <= (
        changed
    )
    assert not [name for name in changed if "Da." in name or "Db." in name]
    assert set(rows[-1]) == {"loss", "precision", "recall"}
    assert rows[-1]["loss"] < np.log(65)
    log = (tmp_path / "log.csv").read_text().splitlines()
    assert log[0] == "step,seconds,loss,precision,recall"
    (step,) = load_artifact(tmp_path / "model").provenance.recipe
    assert step["step"] == "shapes"
    assert step["shapes"]["size"] == [64, 48]


def test_resumed_run_equals_an_uninterrupted_one(tmp_path: Path, stage: ShapesStage) -> None:
    short = dataclasses.replace(stage, loop=dataclasses.replace(stage.loop, steps=3))
    whole = train_shapes(short, None, tmp_path / "whole")
    for _ in range(3):
        part = train_shapes(short, None, tmp_path / "parts", minutes=0)
    for name, array in whole.to_artifact().arrays.items():
        np.testing.assert_array_equal(part.to_artifact().arrays[name], array, err_msg=name)
    other = dataclasses.replace(short, seed=5)
    with pytest.raises(TrainingError, match=r"other settings \(seed\)"):
        train_shapes(other, None, tmp_path / "parts")


def test_a_stage_may_start_from_a_trained_network(
    tmp_path: Path, stage: ShapesStage, models: dict[str, Model]
) -> None:
    models["four-heads"].save(tmp_path / "model")
    loop = dataclasses.replace(stage.loop, steps=1, learning_rate=0.0)
    start = dataclasses.replace(stage, loop=loop, start=str(tmp_path / "model"))
    trained = train_shapes(start, None, tmp_path / "run").to_artifact().arrays
    for name, array in models["four-heads"].to_artifact().arrays.items():
        if name.startswith("extractor.conv"):
            np.testing.assert_array_equal(trained[name], array)
    models["one-head"].save(tmp_path / "other")
    other = dataclasses.replace(start, start=str(tmp_path / "other"))
    with pytest.raises(TrainingError, match="another architecture"):
        train_shapes(other, None, tmp_path / "second")


def test_precision_and_recall_by_hand() -> None:
    scores = torch.zeros(2, 48, 64)
    scores[0, 10, 10] = 0.9  # on a corner
    scores[0, 21, 31] = 0.5  # within 2 px of one
    scores[0, 40, 40] = 0.5  # of none
    scores[0, 40, 10] = 0.01  # below the threshold
    scores[1, 1, 1] = 0.9  # near what only fills the list up
    points = torch.zeros(2, 8, 2)
    points[0, :5] = torch.tensor([(10, 10), (30, 20), (50, 40), (10, 40), (60, 10)])
    count = torch.tensor([5, 0])
    precision, recall = ShapesLoss().precision_recall(scores, points, count)
    assert precision == pytest.approx(2 / 4)
    assert recall == pytest.approx(2 / 5)
    assert ShapesLoss().precision_recall(scores * 0, points, count) == (0, 0)


def test_the_configuration_of_the_repository() -> None:
    path = Path(__file__).parents[3] / "configs" / "train" / "fast" / "shapes.toml"
    if not path.is_file():
        pytest.skip("a source distribution comes without it")
    stage = read_stage(ShapesStage, path)
    assert stage.loop.steps > 0
    assert stage.architecture.batch_norm


def test_photographs_are_rejected(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text("[loop]\nsteps = 1\n")
    command = ["train", "shapes", "--config", str(tmp_path / "a.toml"), "-o", str(tmp_path / "run")]
    assert main([*command, "--images", str(tmp_path)]) == 2
    assert "uses no photographs: leave out --images" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    stage = read_stage(ShapesStage, tmp_path / "a.toml")
    with pytest.raises(UsageError, match="leave out `images`"):
        train_shapes(stage, tmp_path, tmp_path / "run")

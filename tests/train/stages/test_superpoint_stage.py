"""The stage "superpoint"."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_stages import POINT, Repeated, batch, write

from featherglue.config import SuperPointConfig
from featherglue.data.photographs import PhotoFolder
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.superpoint_stage import SuperPointStage, train_superpoint


def test_training_reduces_the_loss_of_superpoint(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    torch.manual_seed(0)
    network = Model.build(models["four-heads"].architecture).extractor
    assert network is not None
    config = ViewPairConfig(size=(64, 64), max_points=48)
    samples = Repeated(ViewPairs(PhotoFolder(images), config), 2)
    loss = SuperPointLoss()
    data = batch(samples, 2)
    with torch.no_grad():
        before, row_before = loss(network.train(), data)
    loop = LoopConfig(steps=12, batch_size=2, warmup=2, workers=0, bf16=False, learning_rate=5e-3)
    train(network, loss, samples, loop, tmp_path)
    with torch.no_grad():
        after, row = loss(network.train(), data)
    assert after < before - 0.5
    assert row["detector"] < row_before["detector"]
    assert row["descriptor"] < row_before["descriptor"]
    assert 0 <= row["matched"] <= 1
    torch.testing.assert_close(after.item(), row["detector"] + row["descriptor"])


def test_the_seed_determines_the_result(images: Path, tmp_path: Path) -> None:
    results = []
    for i, seed in enumerate((4, 4, 5)):
        text = POINT.replace("seed = 4", f"seed = {seed}")
        stage = read_stage(SuperPointStage, write(tmp_path / "point.toml", text))
        torch.rand(i)  # whatever happened before
        trained = train_superpoint(stage, images, tmp_path / str(i))
        results.append(trained.to_artifact().arrays["extractor.conv3a.weight"])
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_a_larger_extractor_starts_from_a_smaller_one(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    small = train_superpoint(stage, images, tmp_path / "small").extractor
    assert small is not None
    channels = tuple(c + 2 for c in small.config.channels)
    grown = dataclasses.replace(
        stage,
        start=str(tmp_path / "small" / "model"),
        architecture=dataclasses.replace(small.config, channels=channels),
        loop=dataclasses.replace(stage.loop, learning_rate=0.0),
    )
    large = train_superpoint(grown, images, tmp_path / "large").extractor
    assert large is not None
    width = small.config.channels[0]
    first = [network.get_parameter("conv1a.weight") for network in (small, large)]
    torch.testing.assert_close(first[1][:width], first[0])
    other = dataclasses.replace(grown, architecture=SuperPointConfig(channels=(1,) * 8))
    with pytest.raises(TrainingError, match="cannot grow"):
        train_superpoint(other, images, tmp_path / "other")


def test_the_published_loss_requires_views_of_one_photograph(images: Path, tmp_path: Path) -> None:
    text = POINT + '[loss]\ndescriptor = "hinge"\n'
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", text))
    trained = train_superpoint(stage, images, tmp_path / "run")
    assert np.isfinite(trained.to_artifact().arrays["extractor.convDb.weight"]).all()
    spatial = "spatial = 0.5\n" + text + "[scenes]\nsize = [64, 64]\n"
    with pytest.raises(ConfigError, match=r"3D scenes do not have: set spatial = 0"):
        read_stage(SuperPointStage, write(tmp_path / "b.toml", spatial))

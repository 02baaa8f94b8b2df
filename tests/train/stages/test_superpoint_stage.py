"""The stage "superpoint"."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_stages import POINT, Repeated, losses_of_training, write

from featherglue.config import SuperPointConfig
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.train.engine.loader import Batches
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.superpoint_stage import SuperPointStage, train_superpoint
from featherglue.train.stages.training_data import extractor_views


def test_training_reduces_the_loss_of_superpoint(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    torch.manual_seed(0)
    network = Model.build(models["four-heads"].architecture).extractor
    assert network is not None
    config = ViewPairConfig(size=(64, 64), max_points=48)
    samples = Repeated(ViewPairs(PhotoFolder(images), config), 2)
    loss = SuperPointLoss()
    (before, row_before), (after, row) = losses_of_training(network, loss, samples, tmp_path, 5e-3)
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


def test_training_of_the_detector_keeps_the_descriptors(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    models["four-heads"].save(tmp_path / "start")
    before = models["four-heads"].extractor
    assert before is not None
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    stage = dataclasses.replace(
        stage, start=str(tmp_path / "start"), part="detector", architecture=None
    )
    made = train_superpoint(stage, images, tmp_path / "run")
    trained = Model.load(tmp_path / "run" / "model")
    assert trained.matcher is not None  # still fits
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert trained.extractor is not None
    with torch.no_grad():
        scores, descriptors = trained.extractor.eval()(image)
        scores_before, descriptors_before = before.eval()(image)
    assert torch.equal(descriptors, descriptors_before)
    assert not torch.allclose(scores, scores_before, atol=1e-4)
    assert made.provenance.recipe[-1]["step"] == "superpoint"


def test_training_of_the_detector_needs_a_model(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    text = 'part = "detector"\n' + POINT
    with pytest.raises(ConfigError, match="requires a model to start from"):
        read_stage(SuperPointStage, write(tmp_path / "a.toml", text))
    models["four-heads"].save(tmp_path / "start")
    text = f'start = "{tmp_path / "start"}"\n' + text
    stage = read_stage(SuperPointStage, write(tmp_path / "b.toml", text))
    stage = dataclasses.replace(stage, architecture=SuperPointConfig(descriptor_dim=8))
    with pytest.raises(TrainingError, match="leave out architecture"):
        train_superpoint(stage, images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_changes_without_effect_are_rejected(tmp_path: Path) -> None:
    text = POINT.replace("[views]", '[views]\nchanges = ["fog"]')
    assert text != POINT
    with pytest.raises(ConfigError, match=r"views\.changes has no effect"):
        read_stage(SuperPointStage, write(tmp_path / "a.toml", text))


def test_a_batch_has_one_size(images: Path, tmp_path: Path) -> None:
    config = ViewPairConfig(size=(64, 64), other_sizes=((96, 64), (40, 48)), max_points=48)
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    stage = dataclasses.replace(stage, views=config)
    photos = PhotoFolder(images)
    samples = extractor_views(photos, config, SceneConfig(), 0.0, 0, None, 4)
    assert not isinstance(samples, Batches)
    shapes = [[samples[4 * step + i]["image0"].shape for i in range(4)] for step in range(12)]
    assert all(len(set(step)) == 1 for step in shapes)
    assert {step[0] for step in shapes} == {(1, 64, 64), (1, 64, 96), (1, 48, 40)}
    assert train_superpoint(stage, images, tmp_path / "run").extractor is not None

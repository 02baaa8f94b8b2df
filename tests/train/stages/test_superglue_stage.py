"""The stage "superglue"."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_stages import GLUE, LOOP, Repeated, batch, write

from featherglue.config import SuperGlueConfig
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.session import load
from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.losses.keypoint_pairs import extract_keypoints
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.stages.superglue_stage import SuperGlueStage, train_superglue


def test_training_reduces_the_loss_of_superglue(
    images: Path, tmp_path: Path, matching: Path
) -> None:
    extractor = Model.load(matching).extractor
    assert extractor is not None
    config = Model.load(matching).architecture.matcher
    assert config is not None
    torch.manual_seed(0)
    network = SuperGlue(config)
    network.init_from_descriptors()
    samples = Repeated(
        Scenes(
            PhotoFolder(images), SceneConfig(size=(128, 96), planar=1.0, photometric_strength=0.0)
        ),
        2,
    )
    loss = SuperGlueLoss(extractor.requires_grad_(False), min_keypoints=60, max_keypoints=60)
    data = batch(samples, 2)
    with torch.no_grad():
        before, _ = loss(network.train(), data)
    loop = LoopConfig(steps=12, batch_size=2, warmup=2, workers=0, bf16=False, learning_rate=3e-3)
    train(network, loss, samples, loop, tmp_path)
    with torch.no_grad():
        after, row = loss(network.train(), data)
    assert after < 0.9 * before
    assert set(row) == {"precision", "recall", "true"}
    assert all(0 <= value <= 1 for value in row.values())
    assert row["true"] > 0.1
    assert all(p.grad is None for p in extractor.parameters())


def test_keypoints_in_training_are_those_of_a_session(matching: Path, gray: np.ndarray) -> None:
    extractor = Model.load(matching).extractor
    assert extractor is not None
    image = np.ascontiguousarray(gray[:128, :160])
    features = load(matching, keypoint_threshold=0.001, max_keypoints=50).extract(image)
    keypoints, scores, descriptors, valid = extract_keypoints(
        extractor, torch.from_numpy(image)[None, None], 50
    )
    assert valid.all()
    np.testing.assert_allclose(scores[0], features.scores, atol=1e-5)
    np.testing.assert_allclose(keypoints[0], features.keypoints, atol=1e-2)
    np.testing.assert_allclose(descriptors[0], features.descriptors, atol=1e-3)


def test_missing_or_incompatible_extractors_are_rejected(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    matcher = dataclasses.replace(models["one-head"], extractor=None)
    matcher.save(tmp_path / "matcher")
    stage = read_stage(
        SuperGlueStage,
        write(tmp_path / "a.toml", GLUE.format(extractor=tmp_path / "matcher", loop=LOOP)),
    )
    with pytest.raises(TrainingError, match="without an extractor"):
        train_superglue(stage, images, tmp_path / "run")
    models["one-head"].save(tmp_path / "pair")
    wide = dataclasses.replace(
        stage, extractor=str(tmp_path / "pair"), architecture=SuperGlueConfig(layers=())
    )
    with pytest.raises(ConfigError, match="descriptor_dim"):
        train_superglue(wide, images, tmp_path / "run")


def test_a_matcher_starts_from_a_trained_one(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    folder = tmp_path / "pair"
    models["four-heads"].save(folder)
    matcher = models["four-heads"].matcher
    assert matcher is not None
    text = (
        f'extractor = "{folder}"\nstart = "{folder}"\n[loop]\nsteps = 1\nbatch_size = 2\n'
        "workers = 0\nlearning_rate = 0.0\nbf16 = false\n[validation]\nfraction = 0\n"
    )
    stage = dataclasses.replace(
        read_stage(SuperGlueStage, write(tmp_path / "a.toml", text)), architecture=matcher.config
    )
    stage = dataclasses.replace(stage, scenes=dataclasses.replace(stage.scenes, size=(96, 64)))
    trained = train_superglue(stage, images, tmp_path / "run").matcher
    assert trained is not None
    torch.testing.assert_close(trained.final_proj.weight, matcher.final_proj.weight)
    again = dataclasses.replace(stage, start=str(tmp_path / "run" / "model"))
    steps = train_superglue(again, images, tmp_path / "again").provenance.recipe
    assert [step["step"] for step in steps] == ["superglue", "superglue"]
    other = dataclasses.replace(stage, architecture=SuperGlueConfig(descriptor_dim=16, layers=()))
    with pytest.raises(TrainingError, match="another architecture"):
        train_superglue(other, images, tmp_path / "other")


def test_a_matcher_resumes_only_with_its_extractor(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    folder = tmp_path / "pair"
    models["four-heads"].save(folder)
    text = GLUE.format(extractor=folder, loop=LOOP)
    stage = read_stage(SuperGlueStage, write(tmp_path / "a.toml", text))
    train_superglue(stage, images, tmp_path / "run")
    retrained = models["four-heads"]
    assert retrained.extractor is not None
    with torch.no_grad():
        retrained.extractor.get_submodule("convPa").bias += 1
    retrained.save(folder)
    with pytest.raises(TrainingError, match=r"other settings \(extractor\)"):
        train_superglue(stage, images, tmp_path / "run")

"""The stage "distill-features"."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
from plane_scene import SIZE, posed_photos, true_depth, write_model, write_photos

from featherglue.cli.train import StageName
from featherglue.config import ArchitectureConfig
from featherglue.data.depth_maps import DepthMaps, save_depth
from featherglue.data.multiview import read_models
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.stages.feature_distillation_stage import (
    FeatureDistillationStage,
    train_feature_distillation,
)
from featherglue.train.stages.stage_registry import STAGES
from featherglue.train.stages.validation import ValidationConfig

h5py = pytest.importorskip("h5py")
LOOP = LoopConfig(steps=3, batch_size=2, warmup=1, workers=0, bf16=False, learning_rate=5e-3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in photographs.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(image, (160, 140)))
    return folder


@pytest.fixture(scope="module")
def features(images: Path) -> Path:
    """A teacher that describes random points by 24 random numbers."""
    rng = np.random.default_rng(0)
    path = images.parent / f"{images.name}.h5"
    with h5py.File(path, "w") as file:
        for image in images.iterdir():
            group = file.create_group(image.name)
            group["keypoints"] = rng.uniform((0, 0), (159, 139), (200, 2))
            group["descriptors"] = rng.standard_normal((24, 200))
    return path


@pytest.fixture
def stage(folders: dict[str, Path], features: Path) -> FeatureDistillationStage:
    return FeatureDistillationStage(
        loop=LOOP,
        start=str(folders["four-heads"]),
        features=str(features),
        teacher="a teacher (MIT)",
        views=ViewPairConfig(size=(64, 64), max_points=32),
        validation=ValidationConfig(fraction=0),
    )


def with_context(stage: FeatureDistillationStage, models: dict[str, Model]) -> ArchitectureConfig:
    extractor = models["four-heads"].architecture.extractor
    assert extractor is not None
    return ArchitectureConfig(extractor=dataclasses.replace(extractor, context_channels=(8, 8)))


def test_extractor_gets_a_context_branch_and_no_matcher(
    stage: FeatureDistillationStage, images: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    wanted = with_context(stage, models)
    stage = dataclasses.replace(stage, architecture=wanted.extractor)
    rows: list[dict[str, float]] = []
    made = train_feature_distillation(
        stage, images, tmp_path, report=lambda step, row: rows.append(row)
    )
    loaded = Model.load(tmp_path / "model")
    assert loaded.architecture == wanted
    assert {"truth", "descriptors", "contrast", "detector"} <= rows[-1].keys()
    step = made.provenance.recipe[-1]
    assert (step["step"], step["teacher"]) == ("distill-features", "a teacher (MIT)")
    before = models["four-heads"].extractor
    assert before is not None and loaded.extractor is not None
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert not torch.allclose(loaded.extractor(image)[1], before(image)[1], atol=1e-3)


def test_training_of_descriptors_keeps_the_detector(
    stage: FeatureDistillationStage, images: Path, models: dict[str, Model], tmp_path: Path
) -> None:
    wanted = with_context(stage, models).extractor
    stage = dataclasses.replace(stage, architecture=wanted, part="descriptors")
    train_feature_distillation(stage, images, tmp_path)
    trained, before = Model.load(tmp_path / "model").extractor, models["four-heads"].extractor
    assert trained is not None and before is not None
    image = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores, descriptors = trained(image)
        scores_before, descriptors_before = before(image)
    assert torch.equal(scores, scores_before)
    assert not torch.allclose(descriptors, descriptors_before, atol=1e-3)


def test_stopped_run_resumes(stage: FeatureDistillationStage, images: Path, tmp_path: Path) -> None:
    whole = train_feature_distillation(stage, images, tmp_path / "whole")
    short = dataclasses.replace(stage, loop=dataclasses.replace(LOOP, steps=3))
    train_feature_distillation(short, images, tmp_path / "parts", minutes=0)
    resumed = train_feature_distillation(short, images, tmp_path / "parts")
    ours, theirs = resumed.to_artifact().arrays, whole.to_artifact().arrays
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


def test_photographs_without_features_are_named(
    stage: FeatureDistillationStage, images: Path, features: Path, tmp_path: Path
) -> None:
    with h5py.File(features) as file, h5py.File(tmp_path / "part.h5", "w") as part:
        file.copy("camera.png", part)
    stage = dataclasses.replace(stage, features=str(tmp_path / "part.h5"))
    with pytest.raises(TrainingError, match=r"no features of 2 photographs, such as astronaut"):
        train_feature_distillation(stage, images, tmp_path / "run")


def test_real_pairs_are_part_of_the_samples(
    stage: FeatureDistillationStage, images: Path, tmp_path: Path
) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        group = file.create_group("camera.png/astronaut.png")
        group["matches0"] = np.arange(200, dtype=np.int32)
    runs = {
        real: train_feature_distillation(
            dataclasses.replace(stage, matches=str(tmp_path / "m.h5"), real=real),
            images,
            tmp_path / str(real),
        )
        for real in (0.0, 1.0)
    }
    plain = train_feature_distillation(stage, images, tmp_path / "plain")
    weights = {real: made.to_artifact().arrays for real, made in runs.items()}
    name = "extractor.convDb.weight"
    np.testing.assert_array_equal(weights[0.0][name], plain.to_artifact().arrays[name])
    assert not np.array_equal(weights[1.0][name], weights[0.0][name])
    with pytest.raises(ConfigError, match="real must be"):
        dataclasses.replace(stage, real=1.5)


def test_pairs_with_depth_are_part_of_the_samples(
    stage: FeatureDistillationStage, tmp_path: Path
) -> None:
    pytest.importorskip("pycolmap")
    photos, scene = write_photos(tmp_path / "photos"), posed_photos()
    write_model(tmp_path / "models/plane", scene, photos)
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for photo in scene:
            name = photos.names[photo.number]
            file[f"{name}/keypoints"] = rng.uniform((0, 0), np.array(SIZE) - 1, (200, 2))
            file[f"{name}/descriptors"] = rng.standard_normal((24, 200))
    maps = DepthMaps(tmp_path / "depths", photos)
    for photo in read_models(tmp_path / "models", photos)[0]:
        save_depth(maps.path(photo), true_depth(photo.world_to_camera))
    stage = dataclasses.replace(
        stage,
        features=str(tmp_path / "f.h5"),
        models=str(tmp_path / "models"),
        depths=str(tmp_path / "depths"),
        real=1.0,
    )
    rows: list[dict[str, float]] = []
    made = train_feature_distillation(
        stage, photos.folder, tmp_path / "run", report=lambda step, row: rows.append(row)
    )
    assert len(rows) > 0
    step = made.provenance.recipe[-1]
    assert len(step["models"]) == len(step["depths"]) == len(step["features"])  # hashes
    # Batches of one scene and of several sizes.
    views = dataclasses.replace(stage.views, other_sizes=((96, 64),), foreground=0.5)
    one_scene = dataclasses.replace(stage, one_scene=True, views=views)
    train_feature_distillation(one_scene, photos.folder, tmp_path / "one")
    with pytest.raises(ConfigError, match="one_scene requires models"):
        dataclasses.replace(one_scene, models="", depths="")
    with pytest.raises(ConfigError, match="give both or neither"):
        dataclasses.replace(stage, depths="")
    with pytest.raises(ConfigError, match="matches or models, not both"):
        dataclasses.replace(stage, matches="m.h5")


def test_every_stage_is_a_command() -> None:
    assert set(get_args(StageName)) == set(STAGES)


def test_the_stage_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "stage.toml"
    path.write_text('start = "fast"\nfeatures = "f.h5"\n[loop]\nsteps = 5\n[loss]\ntruth = 2.0\n')
    found = read_stage(STAGES["distill-features"].config, path)
    assert (found.loss.truth, found.views.size) == (2.0, (256, 256))

"""The stage "superglue"."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_stages import GLUE, LOOP, Repeated, batch, losses_of_training, write

from featherglue.config import SuperGlueConfig
from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import RealPairConfig
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.session import load
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.losses.end_to_end_loss import EndToEndLoss
from featherglue.train.losses.keypoint_pairs import extract_keypoints
from featherglue.train.losses.student_teacher import Student
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.stages.stage_provenance import pair_steps, training_steps
from featherglue.train.stages.start_weights import folded_extractor
from featherglue.train.stages.superglue_stage import SuperGlueStage, train_superglue
from featherglue.train.stages.training_data import matcher_scenes


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
    (before, _), (after, row) = losses_of_training(network, loss, samples, tmp_path, 3e-3)
    assert after < 0.9 * before
    assert set(row) == {"precision", "recall", "true"}
    assert all(0 <= value <= 1 for value in row.values())
    assert row["true"] > 0.1
    assert all(p.grad is None for p in extractor.parameters())


def test_descriptors_are_trained_with_the_matcher(
    images: Path, tmp_path: Path, models: dict[str, Model], real_pairs: str
) -> None:
    folder = tmp_path / "pair"
    width = models["context"].architecture.extractor.descriptor_dim  # type: ignore[union-attr]
    models["context"].save(folder)
    text = GLUE.format(extractor=folder, loop=LOOP) + real_pairs
    text = "descriptor_weight = 0.5\n" + text.replace("dim = 16", f"dim = {width}")
    stage = read_stage(SuperGlueStage, write(tmp_path / "a.toml", text))
    model = train_superglue(stage, images, tmp_path / "run")
    assert "descriptors" in (tmp_path / "run/log.csv").read_text().splitlines()[0].split(",")
    before, after = (
        one.to_artifact().arrays for one in (Model.load(folder), Model.load(tmp_path / "run/model"))
    )
    names = {name.split(".")[1] for name in after if name.startswith("extractor")}
    learned = {name for name in names if re.match("(conv|bn)[CD]", name)}
    assert {"convC1a", "convDa", "convDb"} <= learned < names
    for name, array in after.items():
        network, layer, kind = name.split(".")[0], name.split(".")[1], name.split(".")[-1]
        if network == "extractor" and (layer not in learned or kind == "weight"):
            assert np.array_equal(array, before[name]) == (layer not in learned), name
    # The next recipe names the step once.
    last = model.provenance.recipe[-1]
    run = str(tmp_path / "run/model")
    assert pair_steps(run, run)[-1] == last
    assert training_steps(run, "extractor")[-1] == last
    assert [s["step"] for s in pair_steps(run, str(folder))] == ["superglue"]
    model.save(tmp_path / "copy")
    assert pair_steps(run, str(tmp_path / "copy")).count(last) == 1


def test_an_ordinary_matcher_did_not_train_its_extractor(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    folder = tmp_path / "pair"
    models["four-heads"].save(folder)
    stage = read_stage(
        SuperGlueStage, write(tmp_path / "a.toml", GLUE.format(extractor=folder, loop=LOOP))
    )
    train_superglue(stage, images, tmp_path / "run")
    assert training_steps(str(tmp_path / "run/model"), "extractor") == ()
    assert len(training_steps(str(tmp_path / "run/model"), "matcher")) == 1


def joint(matching: Path, weight: float) -> tuple[EndToEndLoss, Student]:
    """The loss of a pair of networks, and the pair."""
    base = Model.load(matching)
    of_matcher = SuperGlueLoss(folded_extractor(base), min_keypoints=60, max_keypoints=60)
    return EndToEndLoss(of_matcher, weight), Student(base.extractor, base.matcher, None)


def planar_scenes(images: Path) -> Repeated:
    config = SceneConfig(size=(128, 96), planar=1.0, photometric_strength=0.5)
    return Repeated(Scenes(PhotoFolder(images), config), 2)


def test_the_loss_of_the_matcher_reaches_the_descriptors(images: Path, matching: Path) -> None:
    loss, network = joint(matching, 0.0)
    loss(network.train(), batch(planar_scenes(images), 2))[0].backward()
    assert network.extractor is not None
    for name, parameter in network.extractor.named_parameters():
        if name.split(".")[0] in ("convDa", "convDb"):
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
        elif not name.startswith("bnD"):
            assert parameter.grad is None, name


def test_training_descriptors_reduces_the_loss(
    images: Path, tmp_path: Path, matching: Path
) -> None:
    loss, network = joint(matching, 0.5)
    samples = planar_scenes(images)
    (before, first), (after, last) = losses_of_training(network, loss, samples, tmp_path, 3e-3)
    assert after < before
    assert last["descriptors"] < 0.9 * first["descriptors"]


@pytest.mark.parametrize("weight", [-1, float("nan")])
def test_the_weight_of_descriptors_is_checked(weight: float) -> None:
    with pytest.raises(ConfigError, match="descriptor_weight must be at least 0, not"):
        SuperGlueStage(loop=LoopConfig(steps=1), extractor="x", descriptor_weight=weight)


@pytest.fixture
def real_pairs(images: Path, tmp_path: Path) -> str:
    """The table `pairs` of a configuration, with matches between two photographs."""
    h5py = pytest.importorskip("h5py")
    names = PhotoFolder(images).names
    points = np.random.default_rng(0).uniform((20, 20), (220, 180), (150, 2)).astype(np.float32)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for number, name in enumerate(names):
            # Matched points lie on one row, as in a camera that moves sideways.
            moved = points + number * np.random.default_rng(number).uniform(
                (0, 0), (20, 0), (150, 2)
            )
            file[f"{name}/keypoints"] = moved.astype(np.float32)
            file[f"{name}/descriptors"] = np.ones((4, 150), np.float32)
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file[f"{names[0]}/{names[1]}/matches0"] = np.arange(150)
    return (
        f'[pairs]\nfeatures = "{tmp_path}/f.h5"\nmatches = "{tmp_path}/m.h5"\n'
        "epipolar_weight = 0.5\n"
    )


def test_real_pairs_are_mixed_with_scenes(
    images: Path, tmp_path: Path, models: dict[str, Model], real_pairs: str
) -> None:
    folder = tmp_path / "pair"
    models["four-heads"].save(folder)
    text = GLUE.format(extractor=folder, loop=LOOP) + real_pairs
    stage = read_stage(SuperGlueStage, write(tmp_path / "a.toml", text))
    model = train_superglue(stage, images, tmp_path / "run")
    columns = (tmp_path / "run/log.csv").read_text().splitlines()[0].split(",")
    assert {"real_possible", "real_recall"} <= set(columns)
    step = model.provenance.recipe[-1]
    assert step["pairs"]["epipolar_weight"] == 0.5
    assert str(tmp_path) not in str(step["pairs"])  # hashes instead of names
    (tmp_path / "m.h5").write_bytes((tmp_path / "m.h5").read_bytes() + b" ")
    with pytest.raises(TrainingError, match=r"other settings \(pairs\.matches\)"):
        train_superglue(stage, images, tmp_path / "run")
    (tmp_path / "m.h5").unlink()
    with pytest.raises(TrainingError, match=r"m\.h5: cannot be read"):
        train_superglue(stage, images, tmp_path / "run")


def test_the_loss_of_a_mixed_batch_weights_both_kinds(
    images: Path, models: dict[str, Model], real_pairs: str, tmp_path: Path
) -> None:
    photos = PhotoFolder(images)
    pairs = RealPairConfig(features=f"{tmp_path}/f.h5", matches=f"{tmp_path}/m.h5", fraction=0.5)
    scenes = SceneConfig(size=(160, 120), planar=1.0, photometric_strength=0.0)
    samples = matcher_scenes(photos, scenes, 0, None, None, 40, pairs)
    model = models["four-heads"]
    assert model.extractor is not None and model.matcher is not None
    loss = SuperGlueLoss(model.extractor, min_keypoints=40, max_keypoints=40)
    mixed = batch(samples, 8)
    real = mixed["real"]
    assert 0 < real.sum() < 8
    network = model.matcher.eval()
    with torch.no_grad():
        whole, row = loss(network, mixed)
        parts = [loss(network, {k: v[rows] for k, v in mixed.items()})[0] for rows in (real, ~real)]
        pairs_found = loss.find_keypoints(mixed)
    share = float(real.float().mean())
    torch.testing.assert_close(whole, share * parts[0] + (1 - share) * parts[1])
    assert 0 <= row["real_possible"] <= 1 and row["true"] > 0
    # The ground truth of planes says nothing about real pairs.
    assert not pairs_found.truth.matches[real].any()
    assert not pairs_found.truth.unmatched0[real].any()


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
    retrained = Model.load(folder)
    assert retrained.extractor is not None
    with torch.no_grad():
        retrained.extractor.get_submodule("convPa").bias += 1
    retrained.save(folder)
    with pytest.raises(TrainingError, match=r"other settings \(extractor\)"):
        train_superglue(stage, images, tmp_path / "run")

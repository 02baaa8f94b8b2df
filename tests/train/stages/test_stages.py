"""The stages of training, from a TOML file and a folder of photographs to a model that runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.cli import main
from featherglue.config import SuperGlueConfig, SuperPointConfig
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.session import load
from featherglue.train.engine.loader import Batch
from featherglue.train.engine.loop import LoopConfig, train
from featherglue.train.losses.superglue_loss import SuperGlueLoss, extract_keypoints
from featherglue.train.losses.superpoint_loss import SuperPointLoss
from featherglue.train.stages.registry import (
    STAGES,
    SuperGlueStage,
    SuperPointStage,
    read_stage,
    train_superglue,
    train_superpoint,
)

LOOP = """
[loop]
steps = 3
batch_size = 2
warmup = 1
workers = 0
bf16 = false
"""
POINT = f"""
seed = 4
data = "three photographs"
{LOOP}
[architecture]
channels = [4, 4, 8, 8, 8, 8, 16, 16]
detector_channels = 16
descriptor_channels = 16
descriptor_dim = 16
batch_norm = true
[views]
size = [64, 64]
max_points = 32
[validation]
share = 0
"""
GLUE = """
extractor = "{extractor}"
fewest = 20
most = 30
{loop}
[architecture]
descriptor_dim = 16
width = 16
keypoint_encoder = [8]
layers = [
  {{kind = "self", heads = 1, head_dim = 8, hidden = 16}},
  {{kind = "cross", heads = 2, head_dim = 8, hidden = 16}},
]
[scenes]
size = [96, 64]
[validation]
share = 0
[processing]
max_keypoints = 77
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in photographs.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(image, (240, 200)))
    return folder


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def batch(samples: Any, count: int) -> Batch:
    items = [samples[i] for i in range(count)]
    return {key: torch.stack([torch.as_tensor(item[key]) for item in items]) for key in items[0]}


# --- losses on real data --------------------------------------------------------------------


class Repeated:
    """The same few samples again and again."""

    def __init__(self, samples: Any, count: int) -> None:
        self.items = [samples[i] for i in range(count)]

    def __getitem__(self, index: int) -> Any:
        return self.items[index % len(self.items)]


def test_steps_of_superpoint_lower_its_loss(
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


def test_steps_of_superglue_lower_its_loss(images: Path, tmp_path: Path, matching: Path) -> None:
    extractor = Model.load(matching).extractor
    assert extractor is not None
    config = Model.load(matching).architecture.matcher
    assert config is not None
    torch.manual_seed(0)
    network = SuperGlue(config)
    network.init_from_descriptors()
    samples = Repeated(
        Scenes(PhotoFolder(images), SceneConfig(size=(128, 96), planar=1.0, light=0.0)), 2
    )
    loss = SuperGlueLoss(extractor.requires_grad_(False), fewest=60, most=60)
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


def test_keypoints_in_training_are_those_in_use(matching: Path, grey: np.ndarray) -> None:
    extractor = Model.load(matching).extractor
    assert extractor is not None
    image = np.ascontiguousarray(grey[:128, :160])
    features = load(matching, keypoint_threshold=0.001, max_keypoints=50).extract(image)
    keypoints, scores, descriptors, valid = extract_keypoints(
        extractor, torch.from_numpy(image)[None, None], 50
    )
    assert valid.all()
    np.testing.assert_allclose(scores[0], features.scores, atol=1e-5)
    np.testing.assert_allclose(keypoints[0], features.keypoints, atol=1e-2)
    np.testing.assert_allclose(descriptors[0], features.descriptors, atol=1e-3)


# --- stages ---------------------------------------------------------------------------------


def test_both_stages_from_the_command_line_to_a_session(
    images: Path, tmp_path: Path, grey: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    point = write(tmp_path / "point.toml", POINT)
    command = ["train", "superpoint", "--config", str(point), "--images", str(images)]
    command += ["--device", "cpu", "-o", str(tmp_path / "point")]
    assert main(command) == 0
    assert "step 3 of 3: loss" in "".join(capsys.readouterr())
    folder = tmp_path / "point" / "model"
    text = GLUE.format(extractor=folder, loop=LOOP)
    glue = write(tmp_path / "glue.toml", text)
    rest = ["--images", str(images), "--device", "cpu", "-o", str(tmp_path / "glue")]
    assert main(["train", "superglue", "--config", str(glue), *rest]) == 0
    artifact = load_artifact(tmp_path / "glue" / "model")
    assert artifact.processing.max_keypoints == 77
    steps = artifact.provenance.recipe
    assert [step["step"] for step in steps] == ["superpoint", "superglue"]
    assert [step["photographs"] for step in steps] == [3, 3]
    assert steps[0]["seed"] == 4
    assert artifact.provenance.license == "Apache-2.0"
    extractor = load_artifact(folder)
    assert extractor.provenance.data == "three photographs"
    for name, array in extractor.arrays.items():
        np.testing.assert_array_equal(artifact.arrays[name], array)
    result = load(tmp_path / "glue" / "model")(grey, grey)
    assert 0 < len(result.features0) <= 77
    assert main(command) == 1  # there is a run already
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0


def test_a_stage_stopped_by_the_clock_leaves_a_model_and_goes_on(
    images: Path, tmp_path: Path
) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "point.toml", POINT))
    whole = train_superpoint(stage, images, tmp_path / "whole")
    for _ in range(3):
        part = train_superpoint(stage, images, tmp_path / "parts", minutes=0)
        assert (tmp_path / "parts" / "model" / "config.json").is_file()
    expected, found = whole.to_artifact().arrays, part.to_artifact().arrays
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_the_same_seed_trains_the_same_and_another_another(images: Path, tmp_path: Path) -> None:
    results = []
    for i, seed in enumerate((4, 4, 5)):
        text = POINT.replace("seed = 4", f"seed = {seed}")
        stage = read_stage(SuperPointStage, write(tmp_path / "point.toml", text))
        torch.rand(i)  # whatever happened before
        trained = train_superpoint(stage, images, tmp_path / str(i))
        results.append(trained.to_artifact().arrays["extractor.conv3a.weight"])
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] != results[2]).any()


def test_an_extractor_is_needed_and_must_fit(
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (POINT + "\nspeed = 3\n", "validation: unknown key 'speed'"),
        ("sead = 3\n" + POINT, "unknown key 'sead'"),
        (POINT.replace("steps = 3", ""), "steps"),
        (POINT.replace("seed = 4", 'seed = "4"'), "seed: expected int"),
        (POINT.replace("size = [64, 64]", "size = 64"), "size: expected a list"),
        (POINT.replace("size = [64, 64]", "size = [64]"), "size"),
        (POINT.replace("size = [64, 64]", "size = [64, 60]"), "size"),
        (POINT.replace("steps = 3", "steps = -1"), "steps"),
        (POINT.replace("batch_size = 2", "batch_size = 0"), "batch_size"),
        ("seed = = 4", "not valid TOML"),
        (POINT + "\n[labels]\nminimum = 0.5\n", "labels in a file"),
        (POINT + '\n[labels]\nfile = "a.npz"\nby = []\n', "what ranks them"),
        (POINT + '\n[labels]\nfile = "a.npz"\nminimum = 0.5\ncertain = 0.4\n', "above minimum"),
        (POINT.replace("size = [64, 64]", "size = [64, 64]\nregion = 2.0", 1), "region"),
        (POINT.replace("share = ", "share = 0.5 # ", 1), "share must lie"),
    ],
)
def test_a_configuration_that_makes_no_sense(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_stage(SuperPointStage, write(tmp_path / "stage.toml", text))


def test_a_configuration_that_is_missing(tmp_path: Path, images: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_stage(SuperPointStage, tmp_path / "missing.toml")
    arguments = ["--config", str(tmp_path / "missing.toml"), "--images", str(images)]
    assert main(["train", "superpoint", *arguments, "-o", str(tmp_path / "run")]) == 2


def test_the_configurations_of_the_repository_are_readable() -> None:
    folder = Path(__file__).parents[2] / "configs"
    if not folder.is_dir():
        pytest.skip("a source distribution comes without them")
    paths = list(folder.glob("*.toml"))
    assert len(paths) >= 2
    for path in paths:
        name = path.stem.split("-")[1]
        assert isinstance(read_stage(STAGES[name].config, path), STAGES[name].config)


def test_a_stage_may_start_from_a_trained_network(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    folder = tmp_path / "pair"
    models["four-heads"].save(folder)
    matcher = models["four-heads"].matcher
    assert matcher is not None
    text = (
        f'extractor = "{folder}"\nstart = "{folder}"\n[loop]\nsteps = 1\nbatch_size = 2\n'
        "workers = 0\nlearning_rate = 0.0\nbf16 = false\n[validation]\nshare = 0\n"
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


def test_a_larger_extractor_may_start_from_a_small_one(images: Path, tmp_path: Path) -> None:
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


def test_the_published_loss_trains_and_needs_views_of_one_photograph(
    images: Path, tmp_path: Path
) -> None:
    text = POINT + '[loss]\ndescriptor = "hinge"\n'
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", text))
    trained = train_superpoint(stage, images, tmp_path / "run")
    assert np.isfinite(trained.to_artifact().arrays["extractor.convDb.weight"]).all()
    spatial = "spatial = 0.5\n" + text + "[scenes]\nsize = [64, 64]\n"
    with pytest.raises(ConfigError, match=r"3D scenes do not have: set spatial = 0"):
        read_stage(SuperPointStage, write(tmp_path / "b.toml", spatial))


def test_a_run_goes_on_with_its_own_settings_only(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    train_superpoint(stage, images, tmp_path / "run")
    more = dataclasses.replace(stage, loop=dataclasses.replace(stage.loop, steps=4))
    train_superpoint(more, images, tmp_path / "run")
    other = dataclasses.replace(more, loop=dataclasses.replace(more.loop, batch_size=3))
    with pytest.raises(TrainingError, match=r"other settings \(loop.batch_size\)"):
        train_superpoint(other, images, tmp_path / "run")
    timed = dataclasses.replace(more, loop=dataclasses.replace(more.loop, steps=0))
    with pytest.raises(TrainingError, match=r"other settings \(loop.steps\)"):
        train_superpoint(timed, images, tmp_path / "run", minutes=1)
    with pytest.raises(ConfigError, match="set `minutes`"):
        train_superpoint(timed, images, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_with_other_workers(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    train_superpoint(stage, images, tmp_path / "run")
    loop = dataclasses.replace(stage.loop, save_seconds=7.0)
    train_superpoint(dataclasses.replace(stage, loop=loop), images, tmp_path / "run")


def test_a_matcher_goes_on_with_its_own_extractor_only(
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


def test_a_run_begun_anew_has_no_best_of_the_one_before(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    train_superpoint(stage, images, tmp_path / "run")
    (tmp_path / "run" / "last.pt").unlink()
    (tmp_path / "run" / "best.pt").write_bytes(b"of another network")
    validation = dataclasses.replace(stage.validation, share=0.0)
    train_superpoint(dataclasses.replace(stage, validation=validation), images, tmp_path / "run")
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_run_from_before_a_setting_existed_goes_on(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    train_superpoint(stage, images, tmp_path / "run")
    path = tmp_path / "run" / "stage.json"
    settings = json.loads(path.read_text())
    del settings["architecture"]["stem"], settings["spatial"]
    path.write_text(json.dumps(settings))
    more = dataclasses.replace(stage, loop=dataclasses.replace(stage.loop, steps=4))
    train_superpoint(more, images, tmp_path / "run")


def test_weights_of_another_licence_stay_under_it(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    ours = train_superpoint(stage, images, tmp_path / "run")
    assert ours.provenance.license == "Apache-2.0"
    foreign = dataclasses.replace(ours.provenance, license="theirs")
    dataclasses.replace(ours, provenance=foreign).save(tmp_path / "foreign")
    start = dataclasses.replace(stage, start=str(tmp_path / "foreign"))
    made = train_superpoint(start, images, tmp_path / "other")
    assert made.provenance.license == "theirs"


def test_devices_that_are_not_there(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.toml", POINT)
    arguments = ["train", "superpoint", "--config", str(config), "--images", str(images)]
    assert main([*arguments, "-o", str(tmp_path / "run"), "--device", "tpu"]) == 2
    assert "no device 'tpu'" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*arguments, "-o", str(tmp_path / "file" / "run"), "--device", "cpu"]) == 1
    assert "cannot be written" in capsys.readouterr().err

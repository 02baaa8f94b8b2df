"""Common behavior of all stages: resumption, settings and saved models."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_stages import GLUE, LOOP, POINT, assert_same_weights, with_loop, write

from featherglue.artifact.format import load_artifact
from featherglue.cli import main
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.session import load
from featherglue.train.engine.checkpoint import last_step
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.stages.superglue_stage import SuperGlueStage, train_superglue
from featherglue.train.stages.superpoint_stage import SuperPointStage, train_superpoint


@pytest.mark.slow
def test_both_stages_from_the_command_line_to_a_session(
    images: Path, tmp_path: Path, gray: np.ndarray, capsys: pytest.CaptureFixture[str]
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
    result = load(tmp_path / "glue" / "model")(gray, gray)
    assert 0 < len(result.features0) <= 77
    assert main(command) == 1  # there is a run already
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0


def test_a_stage_stopped_by_the_time_limit_saves_a_model_and_resumes(
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


def test_a_run_resumes_only_with_its_settings(images: Path, tmp_path: Path) -> None:
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


@pytest.mark.slow
def test_a_run_resumes_with_other_workers_and_save_times(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    whole = with_loop(stage, steps=5)
    expected = train_superpoint(whole, images, tmp_path / "whole")
    train_superpoint(whole, images, tmp_path / "run", minutes=0)
    resumed = train_superpoint(
        with_loop(whole, save_seconds=7.0, workers=1), images, tmp_path / "run"
    )
    assert last_step(tmp_path / "run") == 5
    assert_same_weights(resumed, expected)
    stored = json.loads((tmp_path / "run" / "stage.json").read_text())
    assert stored["loop"]["save_seconds"] == 7.0


def test_a_run_that_starts_over_removes_the_old_best_weights(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    train_superpoint(stage, images, tmp_path / "run")
    (tmp_path / "run" / "last.pt").unlink()
    (tmp_path / "run" / "best.pt").write_bytes(b"of another network")
    validation = dataclasses.replace(stage.validation, fraction=0.0)
    train_superpoint(dataclasses.replace(stage, validation=validation), images, tmp_path / "run")
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_run_from_before_a_setting_existed_resumes(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    expected = train_superpoint(stage, images, tmp_path / "whole")
    train_superpoint(stage, images, tmp_path / "run", minutes=0)
    path = tmp_path / "run" / "stage.json"
    settings = json.loads(path.read_text())
    del settings["architecture"]["stem"], settings["spatial"]
    path.write_text(json.dumps(settings))
    while last_step(tmp_path / "run") < 3:
        resumed = train_superpoint(stage, images, tmp_path / "run", minutes=0)
    assert_same_weights(resumed, expected)
    stored = json.loads(path.read_text())
    assert (stored["spatial"], stored["architecture"]["stem"]) == (0.0, stage.architecture.stem)


def test_a_run_with_renamed_settings_resumes(
    images: Path, tmp_path: Path, models: dict[str, Model]
) -> None:
    models["four-heads"].save(tmp_path / "pair")
    text = GLUE.format(extractor=tmp_path / "pair", loop=LOOP)
    stage = read_stage(SuperGlueStage, write(tmp_path / "a.toml", text))
    train_superglue(stage, images, tmp_path / "run", minutes=0)
    path = tmp_path / "run" / "stage.json"
    settings = json.loads(path.read_text())
    settings["fewest"], settings["most"] = (
        settings.pop("min_keypoints"),
        settings.pop("max_keypoints"),
    )
    for table, old, new in (
        ("scenes", "light", "photometric_strength"),
        ("scenes", "planes", "max_planes"),
        ("validation", "share", "fraction"),
    ):
        settings[table][old] = settings[table].pop(new)
    path.write_text(json.dumps(settings))
    train_superglue(stage, images, tmp_path / "run", minutes=0)
    assert last_step(tmp_path / "run") == 2
    path.write_text(json.dumps(settings | {"most": 29}))
    with pytest.raises(TrainingError, match=r"other settings \(max_keypoints\)"):
        train_superglue(stage, images, tmp_path / "run", minutes=0)


def test_weights_of_another_license_keep_it(images: Path, tmp_path: Path) -> None:
    stage = read_stage(SuperPointStage, write(tmp_path / "a.toml", POINT))
    ours = train_superpoint(stage, images, tmp_path / "run")
    assert ours.provenance.license == "Apache-2.0"
    foreign = dataclasses.replace(ours.provenance, license="theirs")
    dataclasses.replace(ours, provenance=foreign).save(tmp_path / "foreign")
    start = dataclasses.replace(stage, start=str(tmp_path / "foreign"))
    made = train_superpoint(start, images, tmp_path / "other")
    assert made.provenance.license == "theirs"


def test_missing_devices_and_unwritable_folders_are_reported(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(tmp_path / "a.toml", POINT)
    arguments = ["train", "superpoint", "--config", str(config), "--images", str(images)]
    assert main([*arguments, "-o", str(tmp_path / "run"), "--device", "tpu"]) == 2
    assert "'tpu' is not one of" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*arguments, "-o", str(tmp_path / "file" / "run"), "--device", "cpu"]) == 1
    assert "cannot be written" in capsys.readouterr().err

"""The stage "adapt": labels, resumption and errors."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from plane_scene import posed_photos, true_depth, write_model, write_photos

import featherglue.train.stages.adapt_stage
from featherglue.artifact.format import load_artifact
from featherglue.data.depth_maps import DepthMaps, save_depth
from featherglue.data.keypoint_labels import KeypointLabels
from featherglue.data.multiview import read_models
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.train.engine.run_settings import read_stage
from featherglue.train.stages.adapt_stage import AdaptStage, adapt
from featherglue.train.stages.homographic_adaptation import LabelConfig

LABELS = LabelConfig(homographies=4, longest=96, max_labels=40, batch_size=3)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "below").mkdir()
    for name, image in photographs.items():
        where = folder / "below" if name == "coffee" else folder
        cv2.imwrite(str(where / f"{name}.png"), cv2.resize(image, (120, 100)))
    return folder


@pytest.fixture
def stage(tmp_path: Path, models: dict[str, Model]) -> AdaptStage:
    models["four-heads"].save(tmp_path / "model")
    return AdaptStage(extractor=str(tmp_path / "model"), labels=LABELS, seed=2, bf16=False)


def assert_equal(found: KeypointLabels, expected: KeypointLabels) -> None:
    assert list(found) == list(expected)
    for name, labels in expected.items():
        for column in ("points", "scores", "covered", "found", "matched"):
            np.testing.assert_array_equal(getattr(found[name], column), getattr(labels, column))


def test_labels_of_a_folder(images: Path, tmp_path: Path, stage: AdaptStage) -> None:
    rows: list[tuple[int, dict[str, float]]] = []
    labels = adapt(stage, images, tmp_path / "run", report=lambda n, row: rows.append((n, row)))
    path = tmp_path / "run" / "labels.npz"
    assert [path] == list(path.parent.iterdir())
    assert_equal(KeypointLabels.load(path), labels)
    assert list(labels) == ["astronaut.png", "below/coffee.png", "camera.png"]
    assert labels.model == load_artifact(stage.extractor).hash
    assert labels.settings["labels"]["homographies"] == 4
    assert sum(len(x) for x in labels.values()) > 20
    for photo in labels.values():
        assert photo.size == (120, 100)
        assert (photo.points > 0).all()
        assert (photo.points < photo.size).all()
        assert (photo.found <= photo.covered).all()
        assert (photo.matched <= photo.covered).all()
        assert photo.covered.max() <= 3
    done, row = rows[-1]
    assert done == 3
    assert row["minutes_left"] == 0
    assert row["rate"] > 0
    assert 0 <= row["repeatability"] <= 1
    assert 0 <= row["matchability"] <= 1


def test_resumed_run_equals_an_uninterrupted_one(
    images: Path, tmp_path: Path, stage: AdaptStage
) -> None:
    whole = adapt(stage, images, tmp_path / "whole.npz")
    for count in (1, 2, 3, 3):
        part = adapt(stage, images, tmp_path / "parts.npz", minutes=0)
        assert len(part) == count
    assert_equal(part, whole)
    assert_equal(KeypointLabels.load(tmp_path / "parts.npz"), whole)
    # A photograph's labels do not depend on its neighbors.
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "camera.png").write_bytes((images / "camera.png").read_bytes())
    alone = adapt(stage, tmp_path / "one", tmp_path / "one.npz")
    np.testing.assert_array_equal(alone["camera.png"].points, whole["camera.png"].points)


def test_interrupted_labeling_saves_all_labels(
    images: Path, tmp_path: Path, stage: AdaptStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, label, calls = (
        tmp_path / "labels.npz",
        featherglue.train.stages.adapt_stage.label_photograph,
        [],
    )

    def interrupted(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return label(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("featherglue.train.stages.adapt_stage.label_photograph", interrupted)
        adapt(stage, images, path)
    assert len(KeypointLabels.load(path)) == 2
    monkeypatch.setattr("featherglue.train.stages.adapt_stage.label_photograph", interrupted)
    assert_equal(adapt(stage, images, path), adapt(stage, images, tmp_path / "whole.npz"))
    assert len(calls) == 3 + 1 + 3


def test_label_file_is_written_during_the_run(
    images: Path, tmp_path: Path, stage: AdaptStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, label, there = (
        tmp_path / "labels.npz",
        featherglue.train.stages.adapt_stage.label_photograph,
        [],
    )

    def looking(*arguments: object) -> object:
        there.append(len(KeypointLabels.load(path)) if path.exists() else 0)
        return label(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("featherglue.train.stages.adapt_stage.label_photograph", looking)
    adapt(dataclasses.replace(stage, save_seconds=0.0), images, path)
    assert there == [0, 1, 2]


def test_label_file_of_another_run_is_rejected(
    images: Path, tmp_path: Path, stage: AdaptStage, models: dict[str, Model]
) -> None:
    path = tmp_path / "labels.npz"
    adapt(stage, images, path, minutes=0)
    before = path.read_bytes()
    models["one-head"].save(tmp_path / "other")
    other = dataclasses.replace(stage, extractor=str(tmp_path / "other"))
    with pytest.raises(TrainingError, match=r"labels\.npz: holds labels of another model"):
        adapt(other, images, path)
    for changed, key in (
        (dataclasses.replace(stage, seed=3), "seed"),
        (dataclasses.replace(stage, labels=dataclasses.replace(LABELS, near=2.0)), "labels"),
    ):
        with pytest.raises(TrainingError, match=rf"other settings \({key}\)"):
            adapt(changed, images, path)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "camera.png").write_bytes((images / "camera.png").read_bytes())
    with pytest.raises(TrainingError, match=r"other photographs \(astronaut\.png\)"):
        adapt(stage, tmp_path / "few", path)
    assert path.read_bytes() == before
    path.write_bytes(before[:300])
    with pytest.raises(TrainingError, match="damaged"):
        adapt(stage, images, path)
    # The same model elsewhere, or written more often, is no other setting.
    path.write_bytes(before)
    models["four-heads"].save(tmp_path / "moved")
    moved = dataclasses.replace(stage, extractor=str(tmp_path / "moved"), save_seconds=1.0)
    assert len(adapt(moved, images, path)) == 3


def test_broken_photographs_are_named(images: Path, tmp_path: Path, stage: AdaptStage) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    (folder / "camera.png").write_bytes((images / "camera.png").read_bytes())
    (folder / "broken.png").write_bytes(b"broken")
    with pytest.warns(UserWarning, match=r"skipped 1 image,.*broken\.png"):
        assert list(adapt(stage, folder, tmp_path / "labels.npz")) == ["camera.png"]


def test_a_model_without_an_extractor(
    images: Path, tmp_path: Path, stage: AdaptStage, models: dict[str, Model]
) -> None:
    dataclasses.replace(models["one-head"], extractor=None).save(tmp_path / "matcher")
    alone = dataclasses.replace(stage, extractor=str(tmp_path / "matcher"))
    with pytest.raises(TrainingError, match="without an extractor"):
        adapt(alone, images, tmp_path / "labels.npz")


def test_bfloat16_labels_are_similar(images: Path, tmp_path: Path, stage: AdaptStage) -> None:
    exact = adapt(stage, images, tmp_path / "exact.npz")
    rounded = adapt(dataclasses.replace(stage, bf16=True), images, tmp_path / "rounded.npz")
    assert not stage.bf16
    assert len(exact) == 3 and list(rounded) == list(exact)
    for name, labels in exact.items():
        gaps = np.linalg.norm(labels.points[:, None] - rounded[name].points, axis=2).min(1)
        assert np.median(gaps) < 0.5


def test_the_configuration_of_the_repository() -> None:
    path = Path(__file__).parents[3] / "configs" / "train" / "fast" / "adapt.toml"
    if not path.is_file():
        pytest.skip("a source distribution comes without it")
    stage = read_stage(AdaptStage, path)
    assert stage.labels.homographies == 16
    assert math.isclose(stage.labels.near, 3)


def test_a_negative_seed_raises() -> None:
    with pytest.raises(ConfigError, match="seed"):
        AdaptStage(extractor="", seed=-1)


def test_photographs_of_a_scene_are_views_of_each_other(tmp_path: Path, stage: AdaptStage) -> None:
    pytest.importorskip("pycolmap")
    photos = write_photos(tmp_path / "photos")
    write_model(tmp_path / "models", posed_photos(), photos)
    depths = DepthMaps(tmp_path / "depths", photos)
    real = dataclasses.replace(
        stage, models=str(tmp_path / "models"), depths=str(tmp_path / "depths")
    )
    with pytest.raises(TrainingError, match="no depth maps of two photographs that overlap"):
        adapt(real, tmp_path / "photos", tmp_path / "none.npz")
    for photo in read_models(tmp_path / "models", photos)[0][:3]:
        save_depth(depths.path(photo), true_depth(photo.world_to_camera))
    plain = adapt(stage, tmp_path / "photos", tmp_path / "plain.npz")
    with_views = adapt(real, tmp_path / "photos", tmp_path / "real.npz")
    added = {
        name: labels.covered.astype(int) - plain[name].covered
        for name, labels in with_views.items()
    }
    assert {name: counts.max() for name, counts in added.items()} == {
        "0.png": 2,
        "1.png": 2,
        "2.png": 2,
        "3.png": 0,  # it has no depth map
    }
    assert min(counts.min() for counts in added.values()) == 0
    fewer = dataclasses.replace(real, labels=dataclasses.replace(LABELS, real_views=1))
    with pytest.raises(TrainingError, match="other settings"):
        adapt(fewer, tmp_path / "photos", tmp_path / "real.npz")


def test_models_need_depth_maps() -> None:
    with pytest.raises(ConfigError, match="give both or neither"):
        AdaptStage(extractor="", models="models")


def test_labels_of_earlier_versions_are_resumed(
    images: Path, tmp_path: Path, stage: AdaptStage
) -> None:
    path = tmp_path / "labels.npz"
    part = adapt(stage, images, path, minutes=0)
    old = {k: v for k, v in part.settings.items() if k not in ("models", "depths")}
    old["labels"] = {k: v for k, v in old["labels"].items() if k != "real_views"}
    KeypointLabels(part, part.model, old).save(path)
    assert_equal(adapt(stage, images, path), adapt(stage, images, tmp_path / "whole.npz"))

"""Scenes with keypoints against the features of a session."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from torch.utils.data import default_collate

from featherglue.artifact.format import load_artifact
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.models.model import Model
from featherglue.session import load
from featherglue.train.losses.keypoint_pairs import KEYPOINT_THRESHOLD
from featherglue.train.losses.superglue_loss import SuperGlueLoss
from featherglue.train.stages.extracted_scenes import ExtractedScenes

MOST = 60


@pytest.fixture
def images(photographs: dict[str, np.ndarray], tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("camera", "coffee"):
        assert cv2.imwrite(str(folder / f"{name}.png"), photographs[name])
    return folder


@pytest.fixture
def folder(models: dict[str, Model], tmp_path: Path) -> Path:
    models["four-heads"].save(tmp_path / "pair")
    return tmp_path / "pair"


def test_items_equal_the_features_of_a_session(folder: Path, images: Path) -> None:
    scenes = Scenes(PhotoFolder(images), SceneConfig(size=(160, 120)), seed=3)
    extracted = ExtractedScenes(scenes, load_artifact(folder), MOST)
    session = load(
        folder,
        runtime="onnxruntime",
        max_keypoints=MOST,
        keypoint_threshold=KEYPOINT_THRESHOLD,
        threads=1,
    )
    for index in (0, 5):
        item, scene = extracted[index], scenes[index]
        again = ExtractedScenes(scenes, load_artifact(folder), MOST)[index]
        assert all(np.array_equal(item[name], again[name]) for name in item)
        np.testing.assert_array_equal(item["planes1"], scene["planes1"])
        for name in "01":
            features = session.extract(scene[f"image{name}"][0])
            count = int(item[f"valid{name}"].sum())
            assert count == len(features) > 0
            for kind in ("keypoints", "scores", "descriptors"):
                np.testing.assert_array_equal(
                    item[f"{kind}{name}"][:count], getattr(features, kind)
                )
                assert not item[f"{kind}{name}"][count:].any()


def test_items_may_keep_their_images(folder: Path, images: Path) -> None:
    scenes = Scenes(PhotoFolder(images), SceneConfig(size=(160, 120)), seed=3)
    artifact = load_artifact(folder)
    without = ExtractedScenes(scenes, artifact, MOST)[0]
    with_images = ExtractedScenes(scenes, artifact, MOST, keep_images=True)[0]
    assert with_images.keys() - without.keys() == {"image0", "image1"}
    np.testing.assert_array_equal(with_images["image1"], scenes[0]["image1"])


def test_loss_uses_the_strongest_keypoints(
    folder: Path, images: Path, models: dict[str, Model]
) -> None:
    scenes = Scenes(PhotoFolder(images), SceneConfig(size=(160, 120)), seed=3)
    batch = default_collate([ExtractedScenes(scenes, load_artifact(folder), MOST)[0]])
    extractor, matcher = models["four-heads"].extractor, models["four-heads"].matcher
    assert extractor is not None and matcher is not None
    loss = SuperGlueLoss(extractor, min_keypoints=20, max_keypoints=20)
    pairs = loss.find_keypoints(batch)
    assert pairs.keypoints.shape == (2, 20, 2)
    np.testing.assert_array_equal(pairs.keypoints[0], batch["keypoints0"][0, :20])
    value, row = loss(matcher, batch)
    assert np.isfinite(float(value.detach())) and 0 <= row["recall"] <= 1

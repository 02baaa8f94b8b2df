"""View pairs with a teacher's descriptors at the corresponding points."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from featherglue.data.feature_files import FeatureFile
from featherglue.data.photographs import PhotoFolder
from featherglue.data.teacher_view_pairs import TeacherViewPairs
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import TrainingError

h5py = pytest.importorskip("h5py")


@pytest.fixture(scope="module")
def features(photos: PhotoFolder, tmp_path_factory: pytest.TempPathFactory) -> FeatureFile:
    """Random keypoints, with the photograph's number and the keypoint's as descriptor."""
    path = tmp_path_factory.mktemp("features") / "f.h5"
    with h5py.File(path, "w") as file:
        for number, name in enumerate(photos.names):
            height, width = photos[number].shape
            points = np.random.default_rng(number).uniform(
                (0, 0), (width - 1, height - 1), (300, 2)
            )
            angle = np.arange(300) / 300
            group = file.create_group(name)
            group["keypoints"] = points.astype(np.float32)
            group["descriptors"] = np.stack((np.cos(angle), np.sin(angle), angle * 0 + number))
    return FeatureFile(path)


def test_points_correspond_to_the_teachers_keypoints(
    photos: PhotoFolder,
    features: FeatureFile,
    sample_image: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> None:
    views = TeacherViewPairs(
        photos, features, ViewPairConfig(size=(96, 96), photometric_strength=0.0)
    )
    for index in range(4):
        sample = views[index]
        count = int(sample["count"])
        assert count > 10
        taught = sample["teacher0"][:count]
        stored = [features[name] for name in photos.names]
        matrices = [taught @ known.descriptors.T for known in stored]
        number = int(np.argmax([matrix.max(1).mean() for matrix in matrices]))
        keypoints = stored[number].keypoints[matrices[number].argmax(1)]
        expected = sample_image(photos[number], keypoints)
        for view in "01":
            seen = sample_image(sample[f"image{view}"][0], sample[f"points{view}"][:count])
            assert np.median(np.abs(seen - expected)) < 8


def test_samples_are_seeded_and_padded(photos: PhotoFolder, features: FeatureFile) -> None:
    config = ViewPairConfig(size=(64, 72), max_points=400)
    first, again = (TeacherViewPairs(photos, features, config, seed=3)[5] for _ in range(2))
    assert first["image0"].shape == (1, 72, 64)
    assert first["teacher0"].shape == (400, 3)
    assert not first["points0"][int(first["count"]) :].any()
    for name, value in first.items():
        np.testing.assert_array_equal(value, again[name])


def test_every_photograph_needs_features(photos: PhotoFolder, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        group = file.create_group(photos.names[0])
        group["keypoints"], group["descriptors"] = np.zeros((1, 2)), np.ones((4, 1))
    with pytest.raises(TrainingError, match=f"no features of {len(photos) - 1} photographs"):
        TeacherViewPairs(photos, FeatureFile(tmp_path / "f.h5"), ViewPairConfig())

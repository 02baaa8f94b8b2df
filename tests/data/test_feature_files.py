"""Feature files in the layout of hloc."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from featherglue.data.feature_files import FeatureFile
from featherglue.errors import TrainingError

h5py = pytest.importorskip("h5py")


def write(path: Path, images: dict[str, tuple[np.ndarray, np.ndarray]]) -> Path:
    with h5py.File(path, "w") as file:
        for name, (keypoints, descriptors) in images.items():
            group = file.create_group(name)
            group["keypoints"], group["descriptors"] = keypoints, descriptors
    return path


def features(count: int, width: int = 4) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    keypoints = rng.uniform(0, 100, (count, 2)).astype(np.float32)
    return keypoints, rng.standard_normal((width, count)).astype(np.float16)


def test_descriptors_are_read_by_row_and_normalized(tmp_path: Path) -> None:
    keypoints, descriptors = features(5)
    path = write(tmp_path / "f.h5", {"a.jpg": (keypoints, descriptors), "b/c.jpg": features(3)})
    file = FeatureFile(path)
    assert file.names == {"a.jpg", "b/c.jpg"}
    assert file.descriptor_dim == 4
    found = file["a.jpg"]
    np.testing.assert_array_equal(found.keypoints, keypoints)
    expected = descriptors.T.astype(np.float32)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found.descriptors, expected, rtol=1e-6)
    assert found.descriptors.dtype == np.float32


def test_a_copy_for_another_process_opens_the_file_again(tmp_path: Path) -> None:
    file = FeatureFile(write(tmp_path / "f.h5", {"a.jpg": features(2)}))
    copied = pickle.loads(pickle.dumps(file))
    np.testing.assert_array_equal(copied["a.jpg"].keypoints, file["a.jpg"].keypoints)


def test_files_that_hold_no_features_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with pytest.raises(TrainingError, match="cannot be read as HDF5"):
        FeatureFile(tmp_path / "text.h5")
    with pytest.raises(TrainingError, match="no group with keypoints"):
        FeatureFile(write(tmp_path / "empty.h5", {}))


def test_shapes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    keypoints, descriptors = features(5)
    images = {"a.jpg": (keypoints, descriptors), "b.jpg": (keypoints[:2], descriptors)}
    file = FeatureFile(write(tmp_path / "f.h5", images))
    with pytest.raises(TrainingError, match=r"b\.jpg has keypoints \(2, 2\)"):
        file["b.jpg"]

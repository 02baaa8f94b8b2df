"""Real pairs from a match file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from two_views import SIZE, spatial_matches

from featherglue.data.feature_files import FeatureFile
from featherglue.data.match_files import MatchFile
from featherglue.data.matched_pairs import MatchedPairs
from featherglue.data.photographs import PhotoFolder
from featherglue.errors import TrainingError
from featherglue.geometry.epipolar import sampson_distances

h5py = pytest.importorskip("h5py")
COUNT, OUTLIERS = 120, 30


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs a, b and c; a and b match with outliers, b and c by chance."""
    folder = tmp_path_factory.mktemp("matched")
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        cv2.imwrite(str(folder / f"photos/{name}.png"), np.zeros(SIZE[::-1], np.uint8))
    points0, points1 = spatial_matches(count=COUNT, outliers=OUTLIERS)
    keypoints = {
        "a.png": points0,
        "b.png": np.concatenate((rng.random((40, 2)) * SIZE, points1)),
        "c.png": rng.random((300, 2)) * SIZE,
    }
    with h5py.File(folder / "f.h5", "w") as file:
        for name, found in keypoints.items():
            file[f"{name}/keypoints"] = np.asarray(found, np.float32)
            file[f"{name}/descriptors"] = np.ones((4, len(found)), np.float32)
    with h5py.File(folder / "m.h5", "w") as file:
        file["a.png/b.png/matches0"] = np.arange(COUNT) + 40
        file["b.png/c.png/matches0"] = rng.permutation(COUNT + 40)
        file["a.png/c.png/matches0"] = np.where(np.arange(COUNT) < 15, np.arange(COUNT), -1)
    return folder


def pairs_of(root: Path, features: str = "f.h5", matches: str = "m.h5") -> MatchedPairs:
    photos = PhotoFolder(root / "photos")
    file = MatchFile(root / matches, photos.names)
    return MatchedPairs(photos, FeatureFile(root / features), file)


def test_pairs_are_verified(root: Path) -> None:
    pairs = pairs_of(root)
    order = {names: index for index, names in enumerate(pairs.matches.pairs)}
    pair = pairs[order["a.png", "b.png"]]
    assert pair is not None and pair.numbers == (0, 1)
    # The last matches are outliers; a few of them lie on their epipolar lines by chance.
    assert COUNT - OUTLIERS <= len(pair.points0) <= COUNT - OUTLIERS + 5
    truth0, truth1 = spatial_matches(seed=1)
    assert np.median(sampson_distances(pair.fundamentals[0], truth0, truth1)) < 0.5
    assert (sampson_distances(pair.fundamentals[0], pair.points0, pair.points1) < 1.6).all()
    assert pairs[order["b.png", "c.png"]] is None
    assert pairs[order["a.png", "c.png"]] is None
    np.testing.assert_allclose(pairs.overlaps[order["a.png", "c.png"]], 15 / COUNT)
    np.testing.assert_allclose(pairs.overlaps[order["a.png", "b.png"]], 1)


def test_files_that_do_not_fit_are_rejected(root: Path) -> None:
    with h5py.File(root / "few.h5", "w") as file:
        for name, count in (("a.png", COUNT), ("b.png", 50)):
            file[f"{name}/keypoints"] = np.zeros((count, 2), np.float32)
            file[f"{name}/descriptors"] = np.ones((4, count), np.float32)
    with pytest.raises(TrainingError, match=r"no features of 1 photograph, such as c\.png"):
        pairs_of(root, "few.h5")
    with h5py.File(root / "one.h5", "w") as file:
        file["a.png/b.png/matches0"] = np.arange(COUNT)
    with pytest.raises(TrainingError, match=r"b\.png has keypoint 119, but .* has 50 keypoints"):
        pairs_of(root, "few.h5", "one.h5")[0]
    with h5py.File(root / "few.h5", "a") as file:
        del file["b.png/keypoints"]
        file["b.png/keypoints"] = np.zeros((COUNT, 3), np.float32)
    with pytest.raises(TrainingError, match=r"keypoints \(120, 3\), not \(N, 2\)"):
        pairs_of(root, "few.h5", "one.h5")[0]

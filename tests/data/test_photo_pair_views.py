"""Views of two photographs, and match files in the layout of hloc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.feature_files import FeatureFile
from featherglue.data.match_files import MatchFile
from featherglue.data.photo_pair_views import PhotoPairViews
from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import RealPair
from featherglue.data.taught_pairs import MatchedTaughtPairs, TransferredTaughtPairs
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import TrainingError

h5py = pytest.importorskip("h5py")
SHIFT = np.array([30.0, 20.0], np.float32)


@pytest.fixture(scope="module")
def scene(photographs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photographs of one scene, the second shifted, with features and their matches."""
    root = tmp_path_factory.mktemp("scene")
    (root / "photos" / "below").mkdir(parents=True)
    smooth = cv2.GaussianBlur(cv2.resize(photographs["coffee"], (400, 320)), (0, 0), 2.0)
    cv2.imwrite(str(root / "photos/a.png"), smooth[:300, :360])
    cv2.imwrite(str(root / "photos/below/b.png"), smooth[20:, 30:])
    points = np.random.default_rng(0).uniform((35, 25), (355, 295), (200, 2)).astype(np.float32)
    angle = np.arange(200) / 100
    with h5py.File(root / "f.h5", "w") as file:
        for name, keypoints, mark in (
            ("a.png", points, 0.0),
            ("below/b.png", points[::-1] - SHIFT, 1.0),
        ):
            own = angle if mark == 0 else angle[::-1]
            group = file.create_group(name)
            group["keypoints"] = keypoints
            group["descriptors"] = np.stack((np.cos(own), np.sin(own), own * 0 + mark))
    with h5py.File(root / "m.h5", "w") as file:
        matches = np.arange(200)[::-1].astype(np.int32)
        matches[:50] = -1
        file.create_group("a.png/below-b.png")["matches0"] = matches
        file.create_group("a.png/elsewhere.png")["matches0"] = matches
    return root


def test_matches_of_known_images_are_read(scene: Path) -> None:
    file = MatchFile(scene / "m.h5", ["a.png", "below/b.png"])
    assert file.pairs == [("a.png", "below/b.png")]
    found = file[0]
    assert found.shape == (150, 2)
    np.testing.assert_array_equal(found.sum(1), 199)
    with pytest.raises(TrainingError, match="no matches0 of two of the photographs"):
        MatchFile(scene / "m.h5", ["a.png"])


def test_points_of_both_views_show_the_same_place(
    scene: Path, sample_image: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    photos = PhotoFolder(scene / "photos")
    features = FeatureFile(scene / "f.h5")
    matches = MatchFile(scene / "m.h5", photos.names)
    config = ViewPairConfig(size=(96, 96), photometric_strength=0.0)
    views = PhotoPairViews(photos, MatchedTaughtPairs(photos, features, matches), config)
    order = set()
    for index in range(8):
        sample = views[index]
        count = int(sample["count"])
        assert count > 10
        seen = [
            sample_image(sample[f"image{view}"][0], sample[f"points{view}"][:count])
            for view in (0, 1)
        ]
        assert np.median(np.abs(seen[0] - seen[1])) < 8
        taught = [sample[f"teacher{view}"][:count] for view in (0, 1)]
        # The third entry names the photograph, the first two the scene point.
        assert set(np.unique(np.sign(taught[0][:, 2]))) != set(np.unique(np.sign(taught[1][:, 2])))
        order.add(bool(taught[0][:, 2].any()))
        angles = [np.arctan2(d[:, 1], d[:, 0]) for d in taught]
        np.testing.assert_allclose(angles[0], angles[1], atol=1e-5)
        for name, value in views[index].items():
            np.testing.assert_array_equal(value, sample[name])
    assert order == {True, False}


def test_matches_of_other_features_are_rejected(scene: Path, tmp_path: Path) -> None:
    photos = PhotoFolder(scene / "photos")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a.png/below-b.png/matches0"] = np.arange(200) + 1
    matches = MatchFile(tmp_path / "m.h5", photos.names)
    pairs = MatchedTaughtPairs(photos, FeatureFile(scene / "f.h5"), matches)
    views = PhotoPairViews(photos, pairs, ViewPairConfig(size=(96, 96)))
    with pytest.raises(TrainingError, match=r"b\.png has keypoint 200, but .* has 200 keypoints"):
        views[0]


class Shifted:
    """A pair whose second photograph is shifted; it does not show the left of the first."""

    overlaps, scenes, have_depth = np.array([0.5]), np.array([0]), np.array([True])

    def __init__(self, visible_from: float) -> None:
        self.visible_from = visible_from

    def __getitem__(self, index: int) -> RealPair:
        nothing = np.zeros((0, 2), np.float32)
        return RealPair(
            numbers=(0, 1),
            points0=nothing,
            points1=nothing,
            fundamentals=np.zeros((3, 3, 3)),
            transfer=ShiftTransfer(-SHIFT, self.visible_from),
        )


class ShiftTransfer:
    def __init__(self, shift: np.ndarray, visible_from: float) -> None:
        self.shift, self.visible_from = shift, visible_from

    def __call__(self, points: np.ndarray) -> np.ndarray:
        found = (points + self.shift).astype(np.float32)
        found[points[:, 0] < self.visible_from] = np.inf
        found[points[:, 1] < 50] = np.nan
        return found

    def swapped(self) -> ShiftTransfer:
        return ShiftTransfer(-self.shift, self.visible_from)


def test_depth_gives_the_places_of_keypoints(
    scene: Path, sample_image: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    photos, features = PhotoFolder(scene / "photos"), FeatureFile(scene / "f.h5")
    pairs = TransferredTaughtPairs(photos, features, Shifted(visible_from=150))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for _ in range(4):
        pair = pairs.draw(rng)
        known = features[photos.names[pair.numbers[0]]]
        x, y = known.keypoints.T
        seen = (x >= 150) & (y >= 50)
        np.testing.assert_array_equal(pair.points[0], known.keypoints[seen])
        np.testing.assert_array_equal(pair.descriptors[1], known.descriptors[seen])
    views = PhotoPairViews(photos, pairs, ViewPairConfig(size=(96, 96), photometric_strength=0.0))
    for index in range(4):
        sample = views[index]
        count = int(sample["count"])
        assert count > 5
        seen0, seen1 = (
            sample_image(sample[f"image{v}"][0], sample[f"points{v}"][:count]) for v in (0, 1)
        )
        assert np.median(np.abs(seen0 - seen1)) < 8
    with pytest.raises(TrainingError, match="fewer than 16 common points with a depth"):
        TransferredTaughtPairs(photos, features, Shifted(visible_from=350)).draw(rng)  # type: ignore[arg-type]


class TwoScenes(Shifted):
    """Photographs 0 and 1 are scene 0 in pairs 0 and 1, and scene 1 in pair 2."""

    overlaps, scenes = np.full(4, 0.5), np.array([0, 0, 1, 2])
    have_depth = np.array([True, True, True, False])  # scene 2 is never drawn

    def __getitem__(self, index: int) -> RealPair:
        return replace(super().__getitem__(index), scene=int(self.scenes[index]))


def test_a_batch_shows_one_scene(scene: Path) -> None:
    photos, features = PhotoFolder(scene / "photos"), FeatureFile(scene / "f.h5")
    pairs = TransferredTaughtPairs(photos, features, TwoScenes(visible_from=150))  # type: ignore[arg-type]
    views = PhotoPairViews(photos, pairs, ViewPairConfig(size=(96, 96)), 0, 3)
    scenes = [[int(views[3 * batch + i]["scene"]) for i in range(3)] for batch in range(12)]
    assert all(len(set(batch)) == 1 for batch in scenes)
    assert {batch[0] for batch in scenes} == {0, 1}


class SparseScene(TwoScenes):
    """The pair of scene 1 has no common points with a depth."""

    def __getitem__(self, index: int) -> RealPair:
        pair = super().__getitem__(index)
        return pair if pair.scene == 0 else replace(pair, transfer=ShiftTransfer(-SHIFT, 1e6))


class ManyScenes(TwoScenes):
    """Eight scenes of one pair each; those with an odd number have no common points."""

    overlaps, scenes, have_depth = np.full(8, 0.5), np.arange(8), np.full(8, True)

    def __getitem__(self, index: int) -> RealPair:
        pair = super().__getitem__(index)
        return replace(pair, transfer=ShiftTransfer(-SHIFT, 1e6)) if pair.scene % 2 else pair


def test_a_scene_without_common_points_is_replaced(scene: Path) -> None:
    photos, features = PhotoFolder(scene / "photos"), FeatureFile(scene / "f.h5")
    pairs = TransferredTaughtPairs(photos, features, SparseScene(visible_from=150))  # type: ignore[arg-type]
    drawn = [pairs.draw(np.random.default_rng(seed), scene=0.99) for seed in range(4)]
    assert {pair.scene for pair in drawn} == {0}
    many = TransferredTaughtPairs(photos, features, ManyScenes(visible_from=150))  # type: ignore[arg-type]
    views = PhotoPairViews(photos, many, ViewPairConfig(size=(96, 96)), 0, 3)
    scenes = [[int(views[3 * batch + i]["scene"]) for i in range(3)] for batch in range(12)]
    assert all(len(set(batch)) == 1 for batch in scenes)
    assert {batch[0] for batch in scenes} == {0, 2, 4, 6}

"""Views of real pairs, here of two parts of one photograph under an affine map."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from featherglue.data.detector_labels import points_inside
from featherglue.data.homography import HomographyRange
from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import RealPair, RealPairConfig
from featherglue.data.real_scenes import MixedScenes, RealScenes
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes

SHIFT = np.array([30.0, 20.0], np.float32)
SCENES = SceneConfig(size=(96, 64), photometric_strength=0.0)
UNCHANGED = RealPairConfig(models="models", turns=0.0)


class Shifted:
    """A pair of photographs, the second shifted; its epipolar lines run along the shift."""

    overlaps = np.array([0.5])

    def __getitem__(self, index: int) -> RealPair:
        points = np.random.default_rng(0).uniform((35, 25), (355, 295), (300, 2))
        x, y = SHIFT
        F = np.array([[0, 0, y], [0, 0, -x], [-y, x, 0]], np.float64)
        return RealPair(
            numbers=(0, 1),
            points0=points.astype(np.float32),
            points1=(points - SHIFT).astype(np.float32),
            fundamentals=np.stack([F, F, F]),
        )


class ShiftedTransfer:
    """Where the second photograph shows points; it hides those on the left of the first."""

    sign = -1

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        found = (points + self.sign * SHIFT).astype(np.float32)
        found[points[:, 0] < 200] = np.inf
        return found

    def swapped(self) -> ShiftedTransfer:
        other = ShiftedTransfer()
        other.sign = -self.sign
        return other


class ShiftedWithDepth(Shifted):
    def __getitem__(self, index: int) -> RealPair:
        return dataclasses.replace(super().__getitem__(index), transfer=ShiftedTransfer())


@pytest.fixture(scope="module")
def pair(photographs: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pair")
    smooth = cv2.GaussianBlur(cv2.resize(photographs["coffee"], (400, 320)), (0, 0), 2.0)
    cv2.imwrite(str(root / "a.png"), np.clip(smooth[:300, :360], 40, 255))
    cv2.imwrite(str(root / "b.png"), np.clip(smooth[20:, 30:], 40, 255))
    return root


@pytest.mark.parametrize("turns", [0.0, 1.0])
def test_points_of_both_views_show_the_same_place(
    pair: Path, sample_image: Callable[[np.ndarray, np.ndarray], np.ndarray], turns: float
) -> None:
    config = RealPairConfig(models="models", turns=turns)
    real = RealScenes(PhotoFolder(pair), Shifted(), SCENES, config, seed=1)
    for index in range(6):
        sample = real[index]
        assert sample["real"]
        every = [sample[f"points{view}"][: sample["num_points"]] for view in (0, 1)]
        shown = [points_inside(points, SCENES.size) for points in every]
        assert (shown[0] | shown[1]).all() and not (shown[0] & shown[1]).all()
        points = [found[shown[0] & shown[1]] for found in every]
        count = len(points[0])
        assert count > 5
        seen = [sample_image(sample[f"image{v}"][0], points[v]) for v in (0, 1)]
        assert np.median(np.abs(seen[0] - seen[1])) < 8
        lines = np.c_[points[0], np.ones(count)] @ sample["fundamentals"][0].T
        away = (np.c_[points[1], np.ones(count)] * lines).sum(1)
        assert np.abs(away / np.linalg.norm(lines[:, :2], axis=1)).max() < 0.05
        for view in (0, 1):
            inside = sample[f"planes{view}"] != NO_PLANE
            assert inside.any()
            # The photographs have no black pixel.
            assert sample[f"image{view}"][0][inside].min() >= 39
        for name, value in real[index].items():
            np.testing.assert_array_equal(value, sample[name])


def test_targets_show_the_same_place(
    pair: Path, sample_image: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> None:
    config = RealPairConfig(models="models", depths="depths", turns=0.5)
    real = RealScenes(PhotoFolder(pair), ShiftedWithDepth(), SCENES, config, seed=1)
    hidden = 0
    for sample in (real[index] for index in range(6)):
        points0, points1 = (sample[f"points{v}"][: sample["num_points"]] for v in (0, 1))
        shown = points_inside(points0, SCENES.size, 1)
        x, y = points0[shown].round().astype(int).T
        found = sample["targets0"][y, x]
        seen = np.isfinite(found).all(1)
        offset = points0[shown][seen].round() - points0[shown][seen]
        # The views are scaled by up to 1.4 · 1.4 relative to each other.
        assert np.abs(found[seen] - points1[shown][seen] - offset).max(initial=0) < 1.5
        hidden += int(np.isinf(found).any(1).sum())
        y, x = np.nonzero(np.isfinite(sample["targets1"]).all(2))
        inside = points_inside(sample["targets1"][y, x], SCENES.size, 1)
        y, x = y[inside], x[inside]
        there = sample_image(sample["image0"][0], sample["targets1"][y, x])
        assert np.median(np.abs(there - sample["image1"][0][y, x])) < 8
    assert hidden > 0


def test_turned_views_have_all_directions(pair: Path) -> None:
    still = HomographyRange(rotation=0, scale=1, anisotropy=1, perspective=0, translation=0)
    config = RealPairConfig(models="models", turns=1.0, warp=still)
    real = RealScenes(PhotoFolder(pair), Shifted(), SCENES, config)
    turns = set()
    for index in range(16):
        sample = real[index]
        first, second = (sample[f"points{view}"][:2] for view in (0, 1))
        angles = [np.arctan2(*(points[1] - points[0])[::-1]) for points in (first, second)]
        turns.add(round(float(np.rad2deg(angles[1] - angles[0]))) % 360)
    assert turns == {0, 90, 180, 270}


@pytest.mark.parametrize("depths", ["", "depths"])
def test_mixed_scenes_have_the_same_entries(pair: Path, depths: str) -> None:
    photos = PhotoFolder(pair)
    scenes = Scenes(photos, SCENES)
    config = dataclasses.replace(UNCHANGED, depths=depths)
    real = RealScenes(photos, Shifted(), SCENES, config)
    mixed = MixedScenes(scenes, real, 0.5, seed=2)
    samples = [mixed[index] for index in range(30)]
    kinds = [bool(sample["real"]) for sample in samples]
    assert 8 < sum(kinds) < 22
    layout = {name: (value.dtype, value.shape) for name, value in samples[0].items()}
    for index, sample in enumerate(samples):
        assert {name: (v.dtype, v.shape) for name, v in sample.items()} == layout
        source = real if sample["real"] else scenes
        np.testing.assert_array_equal(sample["image0"], source[index]["image0"])
        assert sample["real"] or sample["num_points"] == 0
        assert ("targets0" in sample) == bool(depths)

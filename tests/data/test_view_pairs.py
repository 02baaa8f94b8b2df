"""View pairs of one photograph have exact correspondences."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.detector_labels import NO_KEYPOINT, points_inside
from featherglue.data.homography import HomographyRange, warp_points
from featherglue.data.photographs import PhotoFolder
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.errors import ConfigError

VIEWS = ViewPairConfig(size=(96, 80), photometric_strength=0.0, max_points=64)


def test_samples_depend_only_on_seed_and_index(photos: PhotoFolder) -> None:
    config = ViewPairConfig(size=(64, 64))
    first, second = ViewPairs(photos, config, seed=3), ViewPairs(photos, config, seed=3)
    for index in (5, 0, 5):
        a, b = first[index], second[index]
        assert set(a) == set(b)
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key])
    others = (first[6], ViewPairs(photos, config, seed=4)[5])
    for other in others:
        assert (other["image0"] != first[5]["image0"]).any()


def test_shapes_and_dtypes_of_a_sample(photos: PhotoFolder) -> None:
    item = ViewPairs(photos, ViewPairConfig(size=(96, 80), max_points=64))[1]
    for view in "01":
        assert item[f"image{view}"].shape == (1, 80, 96)
        assert item[f"image{view}"].dtype == np.uint8
        assert item[f"labels{view}"].shape == item[f"inside{view}"].shape == (10, 12)
        assert item[f"labels{view}"].dtype == np.int64
        assert item[f"inside{view}"].dtype == np.bool_
        assert item[f"points{view}"].shape == (64, 2)
        assert item[f"points{view}"].dtype == np.float32
    assert item["H_0to1"].dtype == np.float32
    assert int(item["count"]) <= 64


@pytest.mark.parametrize("index", range(8))
def test_correspondences_agree_with_the_homography(index: int, photos: PhotoFolder) -> None:
    item = ViewPairs(photos, VIEWS)[index]
    count = int(item["count"])
    points0, points1 = item["points0"][:count], item["points1"][:count]
    np.testing.assert_allclose(warp_points(points0, item["H_0to1"]), points1, atol=0.02)
    assert points_inside(points0, VIEWS.size, 2).all()
    assert points_inside(points1, VIEWS.size, 2).all()
    assert (item["points0"][count:] == 0).all()
    assert item["H_0to1"][2, 2] == 1


def test_corresponding_points_have_the_same_intensity(
    photos: PhotoFolder, sample_image: Callable[..., np.ndarray]
) -> None:
    pairs = ViewPairs(photos, VIEWS)
    corresponding, shuffled, total = [], [], 0
    for index in range(12):
        item = pairs[index]
        count = int(item["count"])
        total += count
        # Away from the corners, where intensities change slowly.
        rng = np.random.default_rng(index)
        points0 = rng.random((400, 2)) * (95, 79)
        points1 = warp_points(points0, item["H_0to1"])
        cells = (points0 // 8).astype(int)
        covered = item["inside0"][cells[:, 1], cells[:, 0]] & points_inside(points1, VIEWS.size, 1)
        cells = np.where(covered[:, None], points1, 0).astype(int) // 8
        covered &= item["inside1"][cells[:, 1], cells[:, 0]]
        first = sample_image(item["image0"][0], points0[covered])
        second = sample_image(item["image1"][0], points1[covered])
        corresponding.append(np.abs(first - second))
        shuffled.append(np.abs(first - rng.permutation(second)))
    assert total > 150
    assert np.median(np.concatenate(corresponding)) < 2
    assert np.percentile(np.concatenate(corresponding), 95) < 12
    assert np.median(np.concatenate(shuffled)) > 15


def test_labels_lie_at_the_corners(photos: PhotoFolder) -> None:
    found = 0
    for index in range(6):
        item = ViewPairs(photos, VIEWS)[index]
        for view in "01":
            labels = item[f"labels{view}"]
            rows, columns = np.nonzero(labels != NO_KEYPOINT)
            inner = labels[rows, columns]
            at = np.stack((columns * 8 + inner % 8, rows * 8 + inner // 8), 1)
            points = item[f"points{view}"][: int(item["count"])]
            for point in points:
                cell = tuple((np.rint(point) // 8).astype(int)[::-1])
                assert labels[cell] != NO_KEYPOINT  # each cell with a corner has a label
                nearest = np.abs(at - point).max(1).min()
                # Its own, or that of a more important corner of the same cell.
                assert nearest < 8
                found += nearest <= 0.5
    assert found > 100


def test_cells_outside_the_photograph_are_marked(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "white.png"), np.full((240, 320), 255, np.uint8))
    photos = PhotoFolder(tmp_path)
    wild = ViewPairConfig(
        size=(96, 80),
        photometric_strength=0.0,
        far=HomographyRange(rotation=90, scale=2.5, translation=0.4),
    )
    outside = 0
    for index in range(10):
        item = ViewPairs(photos, wild)[index]
        for view in "01":
            darkest = item[f"image{view}"][0].reshape(10, 8, 12, 8).min((1, 3))
            # What shrinks is averaged, so that the edge is soft there.
            assert (darkest[item[f"inside{view}"]] > 100).all()
            assert item[f"inside{view}"][darkest == 255].all()
            outside += int((~item[f"inside{view}"]).sum())
    assert 100 < outside < 2000


def test_covered_points_and_cells_do_not_count(photos: PhotoFolder) -> None:
    config = ViewPairConfig(
        size=(96, 80),
        photometric_strength=0.0,
        max_points=400,
        near=HomographyRange(rotation=0, scale=1, anisotropy=1, perspective=0, translation=0),
        far=HomographyRange(rotation=0, scale=1, anisotropy=1, perspective=0, translation=0),
    )
    plain, covered = (
        ViewPairs(photos, dataclasses.replace(config, foreground=share), 0)[3]
        for share in (0.0, 1.0)
    )
    assert plain["inside0"].all()
    for view in "01":
        changed = (plain[f"image{view}"] != covered[f"image{view}"])[0]
        cells = changed.reshape(10, 8, 12, 8).any(axis=(1, 3))
        assert 0 < cells.mean() < 0.6
        assert not (cells & covered[f"inside{view}"]).any()
        points = covered[f"points{view}"][: covered["count"]]
        x, y = np.rint(points).astype(int).T
        assert not changed[y, x].any()
    assert 0 < covered["count"] < plain["count"]


def test_strong_changes_are_a_fraction_of_the_samples(
    photos: PhotoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bright(
        rng: np.random.Generator, image: np.ndarray, strength: float, changes: tuple[str, ...]
    ) -> np.ndarray:
        assert changes == ("fog",)
        return np.full_like(image, 255)

    monkeypatch.setattr("featherglue.data.view_pairs.augment_appearance", bright)
    config = ViewPairConfig(size=(64, 64), appearance=0.3, changes=("fog",))
    views = ViewPairs(photos, config)
    strong = [tuple((views[i][f"image{v}"] == 255).all() for v in "01") for i in range(40)]
    assert set(strong) == {(True, True), (False, False)}
    assert 4 <= sum(both for both, _ in strong) <= 20


@pytest.mark.parametrize(
    "settings", [{"appearance": 1.5}, {"foreground": -1}, {"other_sizes": ((60, 64),)}]
)
def test_settings_of_changes_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        ViewPairConfig(**settings)  # type: ignore[arg-type]

"""Procedural scenes have exact correspondences, occlusion and the documented samples."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from featherglue.data.detector_labels import points_inside
from featherglue.data.homography import warp_points
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes
from featherglue.errors import ConfigError


def scene(photos: PhotoFolder, index: int, planar: float) -> dict[str, np.ndarray]:
    config = SceneConfig(size=(160, 120), planar=planar, photometric_strength=0.0)
    return Scenes(photos, config, seed=1)[index]  # type: ignore[return-value]


@pytest.mark.parametrize("planar", [0.0, 1.0])
def test_homographies_of_planes_map_equal_intensities(
    photos: PhotoFolder, planar: float, sample_image: Callable[..., np.ndarray]
) -> None:
    corresponding, shuffled = [], []
    planes_seen: set[int] = set()
    for index in range(10):
        item = scene(photos, index, planar)
        y, x = np.mgrid[2:118:3, 2:158:3]
        points = np.stack((x.ravel(), y.ravel()), 1)
        for k in range(len(item["maps"])):
            # Well within plane k in both views, so that no other one is mixed in.
            interior = [
                cv2.erode((item[f"planes{v}"] == k).astype(np.uint8), np.ones((5, 5))) for v in "01"
            ]
            mine = points[interior[0][points[:, 1], points[:, 0]] > 0]
            mapped = warp_points(mine, item["maps"][k].astype(float))
            seen = points_inside(mapped, (160, 120), 1)
            rounded = np.rint(np.where(seen[:, None], mapped, 0)).astype(int)
            seen &= interior[1][rounded[:, 1], rounded[:, 0]] > 0
            if seen.sum() < 20:
                continue
            planes_seen.add(k)
            first = sample_image(item["image0"][0], mine[seen])
            second = sample_image(item["image1"][0], mapped[seen])
            corresponding.append(np.abs(first - second))
            shuffled.append(np.abs(first - np.random.default_rng(0).permutation(second)))
    assert len(planes_seen) > (2 if planar == 0 else 0)
    assert len(np.concatenate(corresponding)) > 1000
    assert np.median(np.concatenate(corresponding)) < 2
    assert np.percentile(np.concatenate(corresponding), 95) < 12
    assert np.median(np.concatenate(shuffled)) > 10


def test_shapes_and_dtypes_of_a_sample(photos: PhotoFolder) -> None:
    for planar in (0.0, 1.0):
        for index in range(6):
            item = scene(photos, index, planar)
            assert item["maps"].shape == (7, 3, 3)
            assert item["maps"].dtype == np.float32
            used = set(np.unique(np.stack((item["planes0"], item["planes1"])))) - {NO_PLANE}
            assert used <= set(range(7))
            assert not planar or used == {0}
            for view in "01":
                assert item[f"image{view}"].shape == (1, 120, 160)
                assert item[f"planes{view}"].shape == (120, 160)
                assert item[f"planes{view}"].dtype == np.uint8
                nothing = item[f"planes{view}"] == NO_PLANE
                if not planar:
                    assert (item[f"image{view}"][0][nothing] == 0).all()
            if planar:
                for unused in range(1, 7):
                    np.testing.assert_array_equal(item["maps"][unused], np.eye(3))


def test_some_pixels_are_occluded(photos: PhotoFolder) -> None:
    """Some pixels of a plane are hidden in the other view: parallax is real."""
    hidden = visible = 0
    for index in range(8):
        item = scene(photos, index, 0.0)
        y, x = np.mgrid[:120:4, :160:4]
        points = np.stack((x.ravel(), y.ravel()), 1)
        plane = item["planes0"][points[:, 1], points[:, 0]]
        for k in set(plane.tolist()) - {NO_PLANE}:
            mapped = warp_points(points[plane == k], item["maps"][k].astype(float))
            rounded = np.rint(mapped[points_inside(mapped, (160, 120))]).astype(int)
            there = item["planes1"][rounded[:, 1], rounded[:, 0]]
            visible += int((there == k).sum())
            hidden += int(((there != k) & (there != NO_PLANE)).sum())
    assert visible > 1000
    assert hidden > 100


def test_samples_depend_only_on_seed_and_index(photos: PhotoFolder) -> None:
    config = SceneConfig(size=(96, 64))
    first, second = Scenes(photos, config, seed=2), Scenes(photos, config, seed=2)
    for index in (3, 0, 3):
        a, b = first[index], second[index]
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key])
    assert (first[3]["image0"] != first[4]["image0"]).any()
    assert (Scenes(photos, config, seed=5)[3]["image0"] != first[3]["image0"]).any()


def test_fraction_of_planar_scenes(photos: PhotoFolder) -> None:
    scenes = Scenes(photos, SceneConfig(size=(48, 40), planar=0.5, photometric_strength=0.0))
    several = 0
    for i in range(40):
        item = scenes[i]
        planes = np.stack((item["planes0"], item["planes1"]))
        several += int(planes[planes != NO_PLANE].max() > 0)
    assert 8 < several < 32


def test_strong_changes_of_appearance_leave_the_geometry(photos: PhotoFolder) -> None:
    plain, strong = (
        Scenes(photos, SceneConfig(size=(96, 72), appearance=fraction), seed=4)[1]
        for fraction in (0.0, 1.0)
    )
    for name in ("maps", "planes0", "planes1"):
        np.testing.assert_array_equal(plain[name], strong[name])
    assert not np.array_equal(plain["image0"], strong["image0"])
    with pytest.raises(ConfigError, match="appearance must be"):
        SceneConfig(appearance=-0.1)

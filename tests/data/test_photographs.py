"""Folders of photographs, pairs of views and scenes: exact correspondences."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.detector_labels import NO_KEYPOINT, cell_labels, points_inside
from featherglue.data.homography import (
    HomographyRange,
    translation_matrix,
    warp_image,
    warp_points,
)
from featherglue.data.photographs import PhotoFolder, detect_corners
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs
from featherglue.errors import ImageError, TrainingError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    """Photographs, blurred so that interpolation costs little; one in a folder below."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "below").mkdir()
    for name, image in photographs.items():
        smooth = cv2.GaussianBlur(cv2.resize(image, (400, 320)), (0, 0), 2.0)
        where = root / "below" if name == "coffee" else root
        cv2.imwrite(str(where / f"{name}.png"), smooth)
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> PhotoFolder:
    return PhotoFolder(folder)


def sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Bilinear intensities at points (N, 2)."""
    x, y = points.astype(np.float32).T
    found = cv2.remap(image.astype(np.float32), x[None], y[None], cv2.INTER_LINEAR)
    return np.asarray(found[0])


# --- folders --------------------------------------------------------------------------------


def test_a_folder_is_read_with_those_below(folder: Path, photos: PhotoFolder) -> None:
    assert photos.names == ["astronaut.png", "below/coffee.png", "camera.png"]
    assert photos.skipped == []
    assert len(photos) == 3
    for i, name in enumerate(photos.names):
        expected = cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(photos[i], expected)


def test_broken_and_small_photographs_are_named_and_skipped(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes((folder / "camera.png").read_bytes())
    (tmp_path / "broken.png").write_bytes((folder / "camera.png").read_bytes()[:500])
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((300, 63), np.uint8))
    with pytest.warns(UserWarning, match=r"skipped 2 images.*broken\.png, small\.png"):
        photos = PhotoFolder(tmp_path)
    assert photos.names == ["good.png"]
    assert photos.skipped == ["broken.png", "small.png"]
    (tmp_path / "good.png").unlink()
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(TrainingError, match="no usable"),
    ):
        PhotoFolder(tmp_path)
    with pytest.raises(ImageError, match="no such folder"):
        PhotoFolder(tmp_path / "nowhere")


def test_corners_of_a_drawn_shape() -> None:
    image = np.full((80, 100), 40, np.uint8)
    image[20:61, 30:71] = 200
    found = detect_corners(image)
    assert found.dtype == np.float32
    expected = np.array([(29.5, 19.5), (70.5, 19.5), (29.5, 60.5), (70.5, 60.5)])
    for corner in expected:
        assert np.linalg.norm(found[:4] - corner, axis=1).min() < 1
    assert detect_corners(np.full((50, 50), 7, np.uint8)).shape == (0, 2)


def test_corners_keep_their_distance(photographs: dict[str, np.ndarray]) -> None:
    found = detect_corners(photographs["camera"], max_corners=200, spacing=6)
    assert 100 < len(found) <= 200
    gaps = np.linalg.norm(found[:, None] - found[None], axis=2) + 99 * np.eye(len(found))
    assert gaps.min() > 2


# --- warping --------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1.7, 1.0, 0.65, 0.5, 0.35])
def test_a_warp_puts_things_where_the_homography_says(scale: float) -> None:
    y, x = np.mgrid[:240, :320]
    for point in ((100.0, 80.0), (181.3, 120.6)):
        radius = 5 / scale
        blob = 220 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * radius**2))
        H = translation_matrix(40, 30) @ np.diag([scale, scale, 1]) @ translation_matrix(-50, -50)
        H[2, :2] = 1e-4, -2e-4
        image = warp_image(blob.astype(np.uint8), H, (320, 240)).astype(float)
        centroid = (image * x).sum() / image.sum(), (image * y).sum() / image.sum()
        np.testing.assert_allclose(centroid, warp_points(np.array([point]), H)[0], atol=0.15)


def test_what_shrinks_is_averaged() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (240, 320), np.uint8)
    shrunk = warp_image(noise, np.diag([0.4, 0.4, 1]), (128, 96))
    assert shrunk.std() < 0.6 * noise.std()


def test_inside_counts_the_border_in() -> None:
    points = np.array([(0, 0), (63, 47), (-0.1, 5), (63.1, 5), (np.nan, 5), (2, 45), (1.9, 45)])
    assert points_inside(points, (64, 48)).tolist() == [True, True, False, False, False, True, True]
    assert points_inside(points, (64, 48), 2).tolist() == [
        False,
        False,
        False,
        False,
        False,
        True,
        False,
    ]


def test_labels_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 2)) * (80, 60) - 8
    points[0] = 8.49, 3.5
    labels = cell_labels(points, (64, 48))
    assert labels.shape == (6, 8)
    expected = np.full((6, 8), NO_KEYPOINT)
    for x, y in points:
        if 0 <= x <= 63 and 0 <= y <= 47:
            column, row = round(x), round(y)
            cell = row // 8, column // 8
            if expected[cell] == NO_KEYPOINT:  # the first, most important one stays
                expected[cell] = 8 * (row % 8) + column % 8
    np.testing.assert_array_equal(labels, expected)
    assert 5 < (labels != NO_KEYPOINT).sum() < 48
    assert (cell_labels(np.zeros((0, 2)), (16, 8)) == NO_KEYPOINT).all()


# --- views ----------------------------------------------------------------------------------

VIEWS = ViewPairConfig(size=(96, 80), light=0.0, max_points=64)


def test_an_item_depends_on_seed_and_index_alone(photos: PhotoFolder) -> None:
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


def test_shapes_and_kinds_of_a_pair(photos: PhotoFolder) -> None:
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


def test_corresponding_points_look_alike(photos: PhotoFolder) -> None:
    pairs = ViewPairs(photos, VIEWS)
    alike, shuffled, total = [], [], 0
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
        first = sample(item["image0"][0], points0[covered])
        second = sample(item["image1"][0], points1[covered])
        alike.append(np.abs(first - second))
        shuffled.append(np.abs(first - rng.permutation(second)))
    assert total > 150
    assert np.median(np.concatenate(alike)) < 2
    assert np.percentile(np.concatenate(alike), 95) < 12
    assert np.median(np.concatenate(shuffled)) > 15


def test_labels_sit_at_the_corners(photos: PhotoFolder) -> None:
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


def test_cells_outside_the_photograph_do_not_count(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "white.png"), np.full((240, 320), 255, np.uint8))
    photos = PhotoFolder(tmp_path)
    wild = ViewPairConfig(
        size=(96, 80), light=0.0, far=HomographyRange(rotation=90, scale=2.5, translation=0.4)
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


# --- scenes ---------------------------------------------------------------------------------


def scene(photos: PhotoFolder, index: int, planar: float) -> dict[str, np.ndarray]:
    config = SceneConfig(size=(160, 120), planar=planar, light=0.0)
    return Scenes(photos, config, seed=1)[index]  # type: ignore[return-value]


@pytest.mark.parametrize("planar", [0.0, 1.0])
def test_a_pixel_of_a_plane_is_found_in_the_other_view(photos: PhotoFolder, planar: float) -> None:
    alike, shuffled = [], []
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
            first = sample(item["image0"][0], mine[seen])
            second = sample(item["image1"][0], mapped[seen])
            alike.append(np.abs(first - second))
            shuffled.append(np.abs(first - np.random.default_rng(0).permutation(second)))
    assert len(planes_seen) > (2 if planar == 0 else 0)
    assert len(np.concatenate(alike)) > 1000
    assert np.median(np.concatenate(alike)) < 2
    assert np.percentile(np.concatenate(alike), 95) < 12
    assert np.median(np.concatenate(shuffled)) > 10


def test_scenes_are_what_their_documentation_says(photos: PhotoFolder) -> None:
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


def test_occlusion_happens(photos: PhotoFolder) -> None:
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


def test_scenes_are_seeded(photos: PhotoFolder) -> None:
    config = SceneConfig(size=(96, 64))
    first, second = Scenes(photos, config, seed=2), Scenes(photos, config, seed=2)
    for index in (3, 0, 3):
        a, b = first[index], second[index]
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key])
    assert (first[3]["image0"] != first[4]["image0"]).any()
    assert (Scenes(photos, config, seed=5)[3]["image0"] != first[3]["image0"]).any()


def test_the_share_of_planar_scenes(photos: PhotoFolder) -> None:
    scenes = Scenes(photos, SceneConfig(size=(48, 40), planar=0.5, light=0.0))
    several = 0
    for i in range(40):
        item = scenes[i]
        planes = np.stack((item["planes0"], item["planes1"]))
        several += int(planes[planes != NO_PLANE].max() > 0)
    assert 8 < several < 32

"""Depth maps by rectified stereo, and the correspondences that they give: textured planes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from plane_scene import SIZE, K, cameras, pose, posed_photos, true_depth, write_model, write_photos

from featherglue.cli import main
from featherglue.data.depth_estimation import DepthEstimator
from featherglue.data.depth_maps import DepthLocation, DepthMaps, DepthTransfer, look_up, save_depth
from featherglue.data.multiview import ModelPairs, read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.data.posed_photo import PosedPhoto
from featherglue.data.stereo import rectify
from featherglue.errors import TrainingError


@pytest.fixture
def photos(tmp_path: Path) -> PhotoFolder:
    return write_photos(tmp_path / "photos")


@pytest.fixture
def scene() -> list[PosedPhoto]:
    return posed_photos()


def test_depth_of_a_plane(scene: list[PosedPhoto], photos: PhotoFolder) -> None:
    estimator = DepthEstimator(scene, photos)
    for index, camera in enumerate(cameras()):
        depth = estimator(index)
        assert depth is not None and depth.shape == SIZE[::-1]
        known = np.isfinite(depth)
        assert known.mean() > 0.5
        error = np.abs(depth / true_depth(camera) - 1)[known]
        assert np.median(error) < 0.005
        assert (error > 0.03).mean() < 0.001


def test_photograph_with_one_neighbor_has_no_depth(
    scene: list[PosedPhoto], photos: PhotoFolder
) -> None:
    assert DepthEstimator(scene[:2], photos)(0) is None


def test_movement_along_the_optical_axis_is_not_rectified(scene: list[PosedPhoto]) -> None:
    assert rectify(scene[0], scene[1]) is not None
    ahead = replace(scene[1], world_to_camera=pose((0, 0, 1)))
    assert rectify(scene[0], ahead) is None
    assert rectify(scene[0], scene[0]) is None


def test_rectified_points_have_equal_rows_and_the_disparity_of_their_depth(
    scene: list[PosedPhoto],
) -> None:
    for other in scene[1:]:
        found = rectify(scene[0], other)
        assert found is not None
        at = [
            np.c_[photo.observations, np.ones(60)] @ H.T
            for photo, H in zip((scene[0], other), found.to_rectified, strict=True)
        ]
        xy0, xy1 = (a[:, :2] / a[:, 2:] for a in at)
        np.testing.assert_allclose(xy0[:, 1], xy1[:, 1], atol=1e-3)
        z = np.c_[scene[0].positions] @ (found.R @ scene[0].world_to_camera[:, :3])[2]
        disparity = found.baseline / z + found.offset
        np.testing.assert_allclose(xy0[:, 0] - xy1[:, 0], disparity, atol=1e-3)
        low, count = found.disparities
        assert (disparity >= low).all() and (disparity <= low + count).all()


def test_transfer_is_exact_and_knows_what_is_hidden(scene: list[PosedPhoto]) -> None:
    depths = [true_depth(camera) for camera in cameras()[:2]]
    depths[1] = depths[1].copy()
    points = scene[0].observations
    expected = scene[1].observations
    inside = ((expected >= 0) & (expected <= np.array(SIZE) - 1)).all(1)
    pixel = expected[inside][0].round().astype(int)
    transfer = DepthTransfer(
        depth0=depths[0],
        depth1=depths[1],
        size0=SIZE,
        size1=SIZE,
        K0=K,
        K1=K,
        pose=pose((0.5, 0, 0)),
    )
    found = transfer(points)
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.05)
    assert np.isinf(found[~inside]).all()
    back = transfer.swapped()(found[inside])
    np.testing.assert_allclose(back, points[inside], atol=0.1)
    # A nearer surface hides a point, a farther one contradicts it, an unknown one tells nothing.
    for factor, wrong in ((0.8, np.isinf), (1.5, np.isnan), (np.nan, np.isnan)):
        depths[1][pixel[1], pixel[0]] = true_depth(cameras()[1])[pixel[1], pixel[0]] * factor
        assert wrong(transfer(points[inside][:1])).all()


def test_points_are_placed_in_the_model(scene: list[PosedPhoto]) -> None:
    photo = scene[2]  # a turned camera
    depth = true_depth(photo.world_to_camera)
    locate = DepthLocation(depth=depth, photo=photo)
    inside = ((photo.observations >= 0) & (photo.observations <= np.array(SIZE) - 1)).all(1)
    positions, uncertainties = locate(photo.observations[inside])
    np.testing.assert_allclose(positions, photo.positions[inside], atol=0.02)
    # 2 % of a depth of about 4, and 8 px at a focal length of 260 px.
    np.testing.assert_allclose(uncertainties, 4 * (0.02 + 8 / 260), rtol=0.2)
    outside, _ = locate(np.array([[-5.0, 3.0]]))
    assert np.isnan(outside).all()


def test_points_behind_the_second_camera_are_hidden() -> None:
    depth = true_depth(pose((0, 0, 0)))
    beyond = DepthTransfer(
        depth0=depth, depth1=depth, size0=SIZE, size1=SIZE, K0=K, K1=K, pose=pose((0, 0, 9))
    )
    assert np.isinf(beyond(np.array([[119.5, 89.5], [10, 10]]))).all()


def test_look_up_outside_is_unknown() -> None:
    depth = np.arange(24, dtype=np.float32).reshape(4, 6)
    points = np.array([[0, 0], [5.4, 3.4], [5.6, 0], [0, -0.6], [np.nan, 0]])
    np.testing.assert_array_equal(look_up(depth, points, (6, 4)), [0, 23, *3 * [np.nan]])
    # A map of half the size of its photograph.
    points = np.array([[0, 0], [1.4, 1.4], [1.6, 0], [11.4, 7.4], [11.6, 7.4]])
    np.testing.assert_array_equal(look_up(depth, points, (12, 8)), [0, 0, 1, 23, np.nan])


def test_large_photographs_are_shrunk(scene: list[PosedPhoto], photos: PhotoFolder) -> None:
    """The depth of photographs enlarged by 4, of 960 px, is that at 640 px."""
    large = photos.folder.parent / "large"  # type: ignore[union-attr]
    large.mkdir()
    to_large = np.array([[4, 0, 1.5], [0, 4, 1.5], [0, 0, 1]])
    for name, photo in zip(photos.names, map(photos.__getitem__, range(4)), strict=True):
        cv2.imwrite(str(large / name), cv2.resize(photo, (960, 720), interpolation=cv2.INTER_CUBIC))
    enlarged = [replace(photo, size=(960, 720), K=to_large @ photo.K) for photo in scene]
    depth = DepthEstimator(enlarged, PhotoFolder(large))(0)
    assert depth is not None and depth.shape == (480, 640)
    points = scene[0].observations.astype(np.float64)
    found = look_up(depth, points * 4 + 1.5, (960, 720))
    expected = look_up(true_depth(pose((0, 0, 0))), points, SIZE)
    known = np.isfinite(found + expected)
    assert known.mean() > 0.4
    assert np.median(np.abs(found / expected - 1)[known]) < 0.01


def test_file_keeps_the_depth(photos: PhotoFolder, scene: list[PosedPhoto], tmp_path: Path) -> None:
    depth = true_depth(pose((0, 0, 0)))
    depth[:20] = np.nan
    maps = DepthMaps(tmp_path / "new/depths", photos)
    assert not maps.has(scene[0])
    with pytest.raises(TrainingError, match=r"no such file.*run `featherglue depth` again"):
        maps.read(scene[0])
    save_depth(maps.path(scene[0]), 1000 * depth)
    save_depth(maps.path(scene[1]), None)
    assert maps.has(scene[0]) and not maps.has(scene[1])
    found = maps.read(scene[0])
    assert found is not None
    np.testing.assert_allclose(found, 1000 * depth, rtol=1e-3)
    assert maps.read(scene[1]) is None
    # A model in other units has other depth maps.
    assert not maps.has(replace(scene[0], positions=2 * scene[0].positions))


@pytest.mark.parametrize(
    "arrays",
    [
        {"depth": np.ones(5, np.float16), "unit": np.array(1.0)},
        {"depth": np.ones((5, 5), np.float16), "unit": np.array([1.0, 2.0])},
        {"depth": np.ones((5, 5), np.float16), "unit": np.array("m")},
        {"depth": np.ones((5, 5), np.float16), "unit": np.array(np.nan)},
        {"depth": np.ones((5, 5), np.float16)},
        None,
    ],
)
def test_damaged_depth_maps_are_errors(
    photos: PhotoFolder, scene: list[PosedPhoto], tmp_path: Path, arrays: dict[str, Any] | None
) -> None:
    maps = DepthMaps(tmp_path, photos)
    path = maps.path(scene[0])
    path.write_bytes(b"no file")
    if arrays is not None:
        np.savez(path, **arrays)
    with pytest.raises(TrainingError, match="cannot be read as a depth map"):
        maps.read(scene[0])


def test_command_writes_depth_maps_and_resumes(
    scene: list[PosedPhoto],
    photos: PhotoFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pycolmap")
    write_model(tmp_path / "models/church", scene, photos)
    output = tmp_path / "depths"
    arguments = ["depth", str(photos.folder), str(tmp_path / "models"), "-o", str(output)]
    assert main([*arguments, "--json", "-"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["num_photos"], values["num_reused"], values["num_without"]) == (4, 0, 0)
    assert values["coverage"] > 0.5
    (stored,) = read_models(tmp_path / "models", photos)
    maps = DepthMaps(output, photos)
    depth = maps.read(stored[0])
    assert depth is not None
    assert np.nanmedian(np.abs(depth / true_depth(cameras()[0]) - 1)) < 0.005
    pair = ModelPairs([stored], maps)[0]
    assert pair.transfer is not None
    found = pair.transfer(pair.points0)
    known = np.isfinite(found).all(1)
    assert known.any()
    assert np.median(np.linalg.norm(found[known] - pair.points1[known], axis=1)) < 1
    # A damaged depth map is made again, the others are kept.
    before = maps.path(stored[2]).read_bytes()
    maps.path(stored[2]).write_bytes(before[:500])
    assert main(arguments) == 0
    assert "4 photos, 3 of them from before; 0 without depth" in capsys.readouterr().out
    assert maps.path(stored[2]).read_bytes() == before
    (tmp_path / "file").write_text("no folder")
    assert main([*arguments[:-1], str(tmp_path / "file")]) == 1
    assert "file" in capsys.readouterr().err


def test_pairs_without_depth_maps_are_named(
    scene: list[PosedPhoto], photos: PhotoFolder, tmp_path: Path
) -> None:
    maps = DepthMaps(tmp_path / "depths", photos)
    with pytest.raises(TrainingError, match=r"no depth maps of two photographs .* makes them"):
        ModelPairs([scene], maps)
    for photo in scene[:2]:
        save_depth(maps.path(photo), true_depth(photo.world_to_camera))
    with pytest.warns(UserWarning, match="1 of 6 pairs have depth maps of both photographs"):
        pairs = ModelPairs([scene], maps)
    assert [pairs[index].transfer is not None for index in range(6)] == [True, *5 * [False]]


def test_photographs_that_exif_turns_are_rejected(
    scene: list[PosedPhoto], photos: PhotoFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pycolmap")
    write_model(tmp_path / "models/church", scene, photos)
    monkeypatch.setattr(PhotoFolder, "orientation", lambda self, index: 3)
    with pytest.raises(TrainingError, match="EXIF tag that turns it"):
        read_models(tmp_path / "models", photos)

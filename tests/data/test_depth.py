"""Depth maps by rectified stereo, and the correspondences that they give: textured planes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from plane_scene import SIZE, K, cameras, pose, posed_photos, true_depth, write_model, write_photos

from featherglue.cli import main
from featherglue.data.depth_estimation import DepthEstimator
from featherglue.data.depth_maps import DepthMaps, DepthTransfer, depth_path, look_up, save_depth
from featherglue.data.multiview import ModelPairs, PosedPhoto, read_models
from featherglue.data.photographs import PhotoFolder
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
    assert rectify(scene[0], scene[1], SIZE, SIZE) is not None
    ahead = PosedPhoto(**{**vars(scene[1]), "world_to_camera": pose((0, 0, 1))})
    assert rectify(scene[0], ahead, SIZE, SIZE) is None
    assert rectify(scene[0], scene[0], SIZE, SIZE) is None


def test_rectified_points_have_equal_rows_and_the_disparity_of_their_depth(
    scene: list[PosedPhoto],
) -> None:
    for other in scene[1:]:
        found = rectify(scene[0], other, SIZE, SIZE)
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
    transfer = DepthTransfer(depth0=depths[0], depth1=depths[1], K0=K, K1=K, pose=pose((0.5, 0, 0)))
    found = transfer(points)
    np.testing.assert_allclose(found[inside], expected[inside], atol=0.05)
    assert np.isinf(found[~inside]).all()
    back = transfer.swapped()(found[inside])
    np.testing.assert_allclose(back, points[inside], atol=0.1)
    # A nearer surface hides a point, a farther one contradicts it, an unknown one tells nothing.
    for factor, wrong in ((0.8, np.isinf), (1.5, np.isnan), (np.nan, np.isnan)):
        depths[1][pixel[1], pixel[0]] = true_depth(cameras()[1])[pixel[1], pixel[0]] * factor
        assert wrong(transfer(points[inside][:1])).all()


def test_look_up_outside_is_unknown() -> None:
    depth = np.ones((4, 6), np.float32)
    points = np.array([[0, 0], [5.4, 3.4], [5.6, 0], [0, -0.6], [np.nan, 0]])
    np.testing.assert_array_equal(np.isfinite(look_up(depth, points)), [1, 1, 0, 0, 0])


def test_file_keeps_the_depth(photos: PhotoFolder, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"no depth maps .* `featherglue depth` makes them"):
        DepthMaps(tmp_path, photos)
    depth = true_depth(pose((0, 0, 0)))
    depth[:20] = np.nan
    save_depth(depth_path(tmp_path, photos.names[0]), 1000 * depth)
    save_depth(depth_path(tmp_path, photos.names[1]), None)
    save_depth(depth_path(tmp_path, photos.names[2]), depth[:9])
    maps = DepthMaps(tmp_path, photos)
    np.testing.assert_allclose(maps[0], 1000 * depth, rtol=1e-3)
    assert maps[1] is None and maps[3] is None
    with pytest.raises(TrainingError, match="240×9 px, but the photograph has 240×180"):
        maps[2]
    depth_path(tmp_path, photos.names[0]).write_bytes(b"no file")
    with pytest.raises(TrainingError, match="cannot be read as a depth map"):
        maps[0]


def test_command_writes_depth_maps_and_goes_on(
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
    assert (values["photos"], values["skipped"], values["without_depth"]) == (4, 0, 0)
    assert values["coverage"] > 0.5
    depth = DepthMaps(output, photos)[0]
    assert depth is not None
    assert np.nanmedian(np.abs(depth / true_depth(cameras()[0]) - 1)) < 0.005
    pairs = ModelPairs(read_models(tmp_path / "models", photos), DepthMaps(output, photos))
    pair = pairs[0]
    assert pair.transfer is not None
    found = pair.transfer(pair.points0)
    known = np.isfinite(found).all(1)
    assert known.any()
    assert np.median(np.linalg.norm(found[known] - pair.points1[known], axis=1)) < 1
    depth_path(output, photos.names[2]).unlink()
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "skipped 3 photos" in shown and "1 depth map, " in shown

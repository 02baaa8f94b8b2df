"""Depth maps by rectified stereo, and the correspondences that they give: textured planes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from featherglue.cli import main
from featherglue.data.depth_estimation import DepthEstimator
from featherglue.data.depth_maps import DepthMaps, DepthTransfer, depth_path, look_up, save_depth
from featherglue.data.multiview import ModelPairs, PosedPhoto, read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.data.stereo import rectify
from featherglue.errors import TrainingError

SIZE = 240, 180
K = np.array([[260, 0, 119.5], [0, 260, 89.5], [0, 0, 1.0]])
NORMAL, OFFSET = np.array([0.2, -0.1, 1.0]), 4.0  # the plane NORMAL · X = OFFSET


def pose(center: tuple[float, float, float], roll: float = 0) -> NDArray[np.float64]:
    """A camera at `center` that looks along z, turned by `roll` degrees."""
    R = cv2.Rodrigues(np.array([0, 0, np.radians(roll)]))[0]
    return np.concatenate((R, -R @ np.array([center]).T), 1)


def true_depth(camera: NDArray[np.float64]) -> NDArray[np.float32]:
    """Depth of the plane at every pixel."""
    y, x = np.mgrid[: SIZE[1], : SIZE[0]]
    rays = np.stack((x, y, np.ones_like(x)), -1) @ np.linalg.inv(K).T
    R, center = camera[:, :3], -camera[:, :3].T @ camera[:, 3]
    return ((OFFSET - NORMAL @ center) / (rays @ (R @ NORMAL))).astype(np.float32)


@pytest.fixture
def cameras() -> list[NDArray[np.float64]]:
    """A row of three, one of them turned, and one above."""
    return [pose((0, 0, 0)), pose((0.5, 0, 0)), pose((-0.5, 0.1, 0), 90), pose((0.1, -0.6, 0.1))]


@pytest.fixture
def photos(cameras: list[NDArray[np.float64]], tmp_path: Path) -> PhotoFolder:
    """Photographs of the plane with a random texture."""
    noise = np.random.default_rng(0).uniform(0, 255, (300, 300)).astype(np.float32)
    texture = cv2.GaussianBlur(noise, (0, 0), 1.2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    folder = tmp_path / "photos"
    folder.mkdir()
    scale = 40.0  # texture pixels per unit
    for number, camera in enumerate(cameras):
        # Points of the plane (X, Y): Z = (OFFSET - n_x X - n_y Y) / n_z.
        plane = np.array([[1, 0, 0], [0, 1, 0], [-NORMAL[0], -NORMAL[1], OFFSET], [0, 0, 1]])
        plane[2] /= NORMAL[2]
        to_plane = np.array([[1 / scale, 0, -150 / scale], [0, 1 / scale, -150 / scale], [0, 0, 1]])
        image = cv2.warpPerspective(texture, K @ camera @ plane @ to_plane, SIZE)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return PhotoFolder(folder)


@pytest.fixture
def scene(cameras: list[NDArray[np.float64]]) -> list[PosedPhoto]:
    """The photographs with 60 common points."""
    rng = np.random.default_rng(1)
    X, Y = rng.uniform(-1, 1, (2, 60))
    positions = np.stack((X, Y, (OFFSET - NORMAL[0] * X - NORMAL[1] * Y) / NORMAL[2]), 1)
    photos = []
    for number, camera in enumerate(cameras):
        projected = (positions @ camera[:, :3].T + camera[:, 3]) @ K.T
        photos.append(
            PosedPhoto(
                number=number,
                K=K,
                world_to_camera=camera,
                points=np.arange(60),
                observations=(projected[:, :2] / projected[:, 2:]).astype(np.float32),
                positions=positions,
            )
        )
    return photos


def test_depth_of_a_plane(
    scene: list[PosedPhoto], photos: PhotoFolder, cameras: list[NDArray[np.float64]]
) -> None:
    estimator = DepthEstimator(scene, photos)
    for index, camera in enumerate(cameras):
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


def test_transfer_is_exact_and_knows_what_is_hidden(
    scene: list[PosedPhoto], cameras: list[NDArray[np.float64]]
) -> None:
    depths = [true_depth(camera) for camera in cameras[:2]]
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
        depths[1][pixel[1], pixel[0]] = true_depth(cameras[1])[pixel[1], pixel[0]] * factor
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


def write_model(folder: Path, scene: list[PosedPhoto], photos: PhotoFolder) -> None:
    """The COLMAP model of a scene, as text."""
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text(f"1 PINHOLE {SIZE[0]} {SIZE[1]} 260 260 120 90\n")
    images, tracks = [], [""] * 60
    for photo in scene:
        vector = cv2.Rodrigues(photo.world_to_camera[:, :3])[0][:, 0]
        angle = float(np.linalg.norm(vector))
        axis = vector / angle if angle else vector
        values = np.r_[np.cos(angle / 2), np.sin(angle / 2) * axis, photo.world_to_camera[:, 3]]
        row = " ".join(str(float(v)) for v in values)
        number = photo.number + 1
        images.append(f"{number} {row} 1 {photos.names[photo.number]}")
        images.append(
            " ".join(f"{x + 0.5} {y + 0.5} {i}" for i, (x, y) in enumerate(photo.observations))
        )
        for i in range(60):
            tracks[i] += f" {number} {i}"
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    points = [
        f"{i} {' '.join(map(str, photo.positions[i].tolist()))} 0 0 0 0{tracks[i]}"
        for i in range(60)
    ]
    (folder / "points3D.txt").write_text("\n".join(points) + "\n")


def test_command_writes_depth_maps_and_goes_on(
    scene: list[PosedPhoto],
    photos: PhotoFolder,
    cameras: list[NDArray[np.float64]],
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
    assert np.nanmedian(np.abs(depth / true_depth(cameras[0]) - 1)) < 0.005
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

"""Real pairs from COLMAP models, here synthetic ones with exact geometry."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.multiview import ModelPairs, count_shared, read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.errors import ImageError, TrainingError
from featherglue.geometry.epipolar import sampson_distances

pycolmap = pytest.importorskip("pycolmap")
SIZE = 320, 240


def write_model(folder: Path, camera: str = "PINHOLE") -> Path:
    """A COLMAP model of five images with 200 points, each seen by three of them."""
    params = {"PINHOLE": [300, 310, 160, 120], "SIMPLE_RADIAL": [300, 160, 120, 0.1]}[camera]
    pycolmap.set_random_seed(0)
    options = pycolmap.SyntheticDatasetOptions(
        num_rigs=1,
        num_cameras_per_rig=1,
        num_frames_per_rig=5,
        num_points3D=200,
        track_length=3,
        camera_width=SIZE[0],
        camera_height=SIZE[1],
        camera_model_id=getattr(pycolmap.CameraModelId, camera),
        camera_params=params,
    )
    folder.mkdir(parents=True)
    model = pycolmap.synthesize_dataset(options)
    model.write(folder)
    return folder


def write_photos(root: Path, model: Path, size: tuple[int, int] = SIZE) -> PhotoFolder:
    """Black photographs with the names of the images of a model."""
    root.mkdir(parents=True)
    for image in pycolmap.Reconstruction(model).images.values():
        cv2.imwrite(str(root / image.name), np.zeros(size[::-1], np.uint8))
    return PhotoFolder(root)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "church/sparse/0")


def test_pairs_share_points_and_agree_with_the_poses(model: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", model)
    scenes = read_models(model, photos)
    assert [len(scene) for scene in scenes] == [5]
    pairs = ModelPairs(scenes)
    assert len(pairs.overlaps) == 10
    stored = pycolmap.Reconstruction(model)
    by_name = {image.name: image for image in stored.images.values()}
    for index, overlap in enumerate(pairs.overlaps):
        pair = pairs[index]
        images = [by_name[photos.names[number]] for number in pair.numbers]
        seen = [{p.point3D_id for p in image.points2D if p.has_point3D()} for image in images]
        shared = seen[0] & seen[1]
        assert len(pair.points0) == len(shared) >= 20
        assert overlap == pytest.approx(len(shared) / min(map(len, seen)))
        # Each match is the projection of a common point, in pixels of our convention.
        for image, found in zip(images, (pair.points0, pair.points1), strict=True):
            projected = [image.project_point(stored.points3D[p].xyz) for p in sorted(shared)]
            np.testing.assert_allclose(found, np.array(projected) - 0.5, atol=0.01)
        for F in pair.fundamentals:
            assert np.median(sampson_distances(F, pair.points0, pair.points1)) < 0.02
        assert sampson_distances(pair.fundamentals[0], pair.points0, pair.points1).max() < 0.02


@pytest.mark.parametrize("subfolder", ["church", "church/images", "images"])
def test_photographs_may_be_scaled_and_in_a_subfolder(
    model: Path, tmp_path: Path, subfolder: str
) -> None:
    write_photos(tmp_path / "photos" / subfolder, model)
    full = ModelPairs(read_models(model.parents[2], PhotoFolder(tmp_path / "photos")))[0]
    small = write_photos(tmp_path / "small", model, (160, 120))
    pair = ModelPairs(read_models(model.parents[2], small))[0]
    np.testing.assert_allclose(2 * (pair.points0 + 0.5), full.points0 + 0.5, atol=1e-3)
    assert sampson_distances(pair.fundamentals[0], pair.points0, pair.points1).max() < 0.02


def test_observations_without_a_position_are_left_out(model: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", model)
    stored = pycolmap.Reconstruction(model)
    image = min(stored.images.values(), key=lambda image: image.name)
    index = next(i for i, point in enumerate(image.points2D) if point.has_point3D())
    image.points2D[index].xy = [np.nan, 5.0]  # as after `undistort_images`
    (tmp_path / "lost").mkdir()
    stored.write(tmp_path / "lost")
    (scene,), (before,) = read_models(tmp_path / "lost", photos), read_models(model, photos)
    assert len(scene[0].points) == len(before[0].points) - 1
    assert all(np.isfinite(photo.observations).all() for photo in scene)
    assert ModelPairs([scene])[0] is not None


def test_count_shared_by_definition(model: Path, tmp_path: Path) -> None:
    (scene,) = read_models(model, write_photos(tmp_path / "photos", model))
    expected = [[len(np.intersect1d(a.points, b.points)) for b in scene] for a in scene]
    np.testing.assert_array_equal(count_shared(scene), expected)


def test_unusable_models_are_rejected(model: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", model)
    with pytest.raises(ImageError, match="no such folder"):
        read_models(tmp_path / "none", photos)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingError, match="0 COLMAP models, none with two images"):
        read_models(tmp_path / "empty", photos)
    bent = write_model(tmp_path / "bent", "SIMPLE_RADIAL")
    with pytest.raises(TrainingError, match=r"distortion moves points .* image_undistorter"):
        read_models(bent, photos)
    with pytest.raises(TrainingError, match="320×240 px, but the photograph is 320×320"):
        read_models(model, write_photos(tmp_path / "square", model, (320, 320)))
    for file in ("images.bin", "cameras.bin"):
        (tmp_path / "bad").mkdir(exist_ok=True)
        (tmp_path / "bad" / file).write_bytes(b"no model")
    with pytest.raises(TrainingError, match="cannot be read as a COLMAP model"):
        read_models(tmp_path / "bad", photos)


def test_models_without_common_points_are_rejected(model: Path, tmp_path: Path) -> None:
    (scene,) = read_models(model, write_photos(tmp_path / "photos", model))
    with pytest.raises(TrainingError, match="share 20 points and 5%"):
        ModelPairs([scene[:1]])

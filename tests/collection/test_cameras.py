"""Photographs that share a camera of a COLMAP database."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest

pycolmap = pytest.importorskip("pycolmap")

from featherglue.collection.colmap import (  # noqa: E402
    CameraOptions,
    import_images,
    quiet,
    share_cameras,
)

WIDE, TALL = (240, 320), (320, 240)  # height and width
NAMES = ("a.jpg", "b.jpg", "c.jpg")


def cameras(folder: Path, sizes: Mapping[str, tuple[int, int]], mode: str = "auto") -> list[int]:
    """Numbers of the cameras of images of these sizes, in the order of the images."""
    for name, size in sizes.items():
        cv2.imwrite(str(folder / name), np.zeros(size, np.uint8))
    return of_database(folder, list(sizes), CameraOptions(mode=mode))  # type: ignore[arg-type]


def of_database(folder: Path, names: list[str], options: CameraOptions) -> list[int]:
    import_images(folder / "database.db", folder, names, options)
    with quiet(), pycolmap.Database.open(folder / "database.db") as database:
        assert database.num_images() == len(names)
        found = {image.name: image.camera_id for image in database.read_all_images()}
    return [found[name] for name in names]


def test_images_that_nothing_tells_apart_share_a_camera(tmp_path: Path) -> None:
    assert len(set(cameras(tmp_path, dict.fromkeys(NAMES, WIDE)))) == 1


def test_images_of_several_sizes_have_cameras_of_their_own(tmp_path: Path) -> None:
    sizes = dict(zip(NAMES, (WIDE, WIDE, (100, 100)), strict=True))
    assert len(set(cameras(tmp_path, sizes))) == 3


def test_a_few_images_of_another_size_do_not_separate_the_others(tmp_path: Path) -> None:
    sizes = dict.fromkeys((f"{i}.png" for i in range(10)), WIDE) | {"other.png": (50, 50)}
    found = cameras(tmp_path, sizes)
    assert len(set(found[:10])) == 1 and found[10] != found[0]


def test_upright_and_wide_images_have_a_camera_each(tmp_path: Path) -> None:
    sizes = {"a.jpg": WIDE, "b.jpg": TALL, "c.jpg": WIDE, "d.jpg": TALL}
    first, second, third, fourth = cameras(tmp_path, sizes)
    assert first == third != second == fourth


def test_each_image_has_a_camera_on_request(tmp_path: Path) -> None:
    assert len(set(cameras(tmp_path, dict.fromkeys(NAMES, WIDE), "per-image"))) == 3


@pytest.mark.parametrize("focal_lengths", [(28, 28, 28), (28, 50, 28)])
def test_images_with_a_known_focal_length_are_left_to_colmap(
    tmp_path: Path, focal_lengths: tuple[int, ...]
) -> None:
    for name, focal in zip(NAMES, focal_lengths, strict=True):
        cv2.imwrite(str(tmp_path / name), np.zeros(WIDE, np.uint8))
        add_focal_length(tmp_path / name, focal)
    assert len(set(of_database(tmp_path, list(NAMES), CameraOptions()))) == 3


def test_given_parameters_do_not_join_cameras(tmp_path: Path) -> None:
    for name in NAMES:
        cv2.imwrite(str(tmp_path / name), np.zeros(WIDE, np.uint8))
    options = CameraOptions(params="300,160,120,0")
    assert len(set(of_database(tmp_path, list(NAMES), options))) == 3


def test_an_unreadable_image_does_not_separate_the_others(tmp_path: Path) -> None:
    for name in NAMES:
        cv2.imwrite(str(tmp_path / name), np.zeros(WIDE, np.uint8))
    (tmp_path / "d.jpg").write_bytes(b"no image")
    import_images(tmp_path / "database.db", tmp_path, [*NAMES, "d.jpg"])
    with quiet(), pycolmap.Database.open(tmp_path / "database.db") as database:
        assert (database.num_images(), database.num_cameras()) == (3, 1)


def add_focal_length(path: Path, millimeters: int) -> None:
    """Add the tag FocalLengthIn35mmFilm to a JPEG file."""

    def entry(tag: int, kind: int, value: int) -> bytes:
        sizes = {3: 2, 4: 4}
        parts = [(tag, 2), (kind, 2), (1, 4), (value, sizes[kind])]
        return b"".join(n.to_bytes(size, "big") for n, size in parts).ljust(12, b"\0")

    # The header of TIFF, a directory that points to the one of EXIF, and that.
    directory = (1).to_bytes(2, "big") + entry(0x8769, 4, 26) + bytes(4)
    exif = (1).to_bytes(2, "big") + entry(0xA405, 3, millimeters) + bytes(4)
    data = b"Exif\0\0" + b"MM\0*" + (8).to_bytes(4, "big") + directory + exif
    jpeg = path.read_bytes()
    path.write_bytes(jpeg[:2] + b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:])


def test_images_keep_their_positions(tmp_path: Path) -> None:
    for name in NAMES:
        cv2.imwrite(str(tmp_path / name), np.zeros(WIDE, np.uint8))
    path = tmp_path / "database.db"
    import_images(path, tmp_path, list(NAMES), CameraOptions(mode="per-image"))
    with quiet(), pycolmap.Database.open(path) as database:
        image = database.read_image_with_name("b.jpg")
        position = np.array([48.0, 11.0, 500.0])
        prior = pycolmap.PosePrior(position=position, corr_data_id=image.data_id)
        database.write_pose_prior(prior)
    share_cameras(path, [["b.jpg", "c.jpg"]])
    with quiet(), pycolmap.Database.open(path) as database:
        numbers = {image.name: image.image_id for image in database.read_all_images()}
        (found,) = database.read_all_pose_priors()
    assert numbers == {"b.jpg": 1, "c.jpg": 2, "a.jpg": 3}
    assert found.corr_data_id.id == 1
    np.testing.assert_array_equal(np.ravel(found.position), position)

"""Names of a collection, and the frames of an image."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scenes import texture

from featherglue.collection.photo_frames import Frame, image_names, mask_path, read_mask, read_view
from featherglue.errors import ImageError
from featherglue.io.image import read_gray

ORIENTATIONS = range(1, 9)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_view_is_upright_and_its_points_are_those_of_the_file(
    tmp_path: Path, orientation: int
) -> None:
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(texture(0, (80, 60))).save(path, exif=exif, quality=95)
    view, frame = read_view(path, None)
    assert np.array_equal(view, read_gray(path))
    assert frame.size == (80, 60)
    stored = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    assert stored is not None
    points = np.array([(3, 5), (20, 40), (41, 7)], np.float32)
    mapped = frame.to_stored(points)
    for (x, y), (u, v) in zip(points.astype(int), mapped.astype(int), strict=True):
        assert view[y, x] == stored[v, u]
    assert np.allclose(frame.to_working(mapped), points)


def test_large_images_are_shrunk(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), texture(0, (80, 60)))
    view, frame = read_view(tmp_path / "a.png", 40)
    assert view.shape == (30, 40)
    assert frame.scale == pytest.approx(2)
    assert frame.to_stored(np.array([(0, 0)], np.float32)).tolist() == [[0.5, 0.5]]
    assert read_view(tmp_path / "a.png", 100)[0].shape == (60, 80)


def test_frame_of_a_rotated_image() -> None:
    assert Frame.of((400, 300), 6, 200).working_size == (150, 200)


def test_names_are_relative_and_in_natural_order(tmp_path: Path) -> None:
    for name in ("b/10.png", "b/9.png", "a ä.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imencode(".png", texture(0))[1].tofile(tmp_path / name)
    assert image_names(tmp_path) == ["a ä.png", "b/9.png", "b/10.png"]


@pytest.mark.parametrize("name", ["a\nb.png", "a\udcff.png"])
def test_names_that_a_pair_list_cannot_hold(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ImageError, match="rename the image"):
        image_names(tmp_path)


def test_names_that_a_match_file_cannot_tell_apart(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/b.png", "a-b.png"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ImageError, match=r"'a-b.png' and 'a/b.png' have the same name"):
        image_names(tmp_path)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_a_mask_follows_its_image(tmp_path: Path, orientation: int) -> None:
    image = texture(0, (80, 60))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=exif)
    mask = np.zeros_like(image)
    mask[10:30, 20:70] = 255
    cv2.imwrite(str(tmp_path / "a.jpg.png"), mask)
    _, frame = read_view(tmp_path / "a.jpg", 40)
    working = read_mask(mask_path(tmp_path, "a.jpg"), frame)
    y, x = np.nonzero(working)
    stored = frame.to_stored(np.stack((x, y), 1).astype(np.float32))
    assert stored.min(0).tolist() == [20.5, 10.5]
    assert stored.max(0).tolist() == [68.5, 28.5]


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), texture(0, (80, 60)))
    cv2.imwrite(str(tmp_path / "a.png.png"), np.zeros((60, 79), np.uint8))
    _, frame = read_view(tmp_path / "a.png", None)
    with pytest.raises(ImageError, match=r"a.png.png: the mask has 79×60 pixels, its image 80×60"):
        read_mask(tmp_path / "a.png.png", frame)

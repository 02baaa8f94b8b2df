"""Folders of photographs and their corners."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.photographs import PhotoFolder, detect_corners
from featherglue.errors import ImageError, TrainingError


def test_subfolders_are_read(folder: Path, photos: PhotoFolder) -> None:
    assert photos.names == ["astronaut.png", "below/coffee.png", "camera.png"]
    assert photos.skipped == []
    assert len(photos) == 3
    for i, name in enumerate(photos.names):
        expected = cv2.imread(str(folder / name), cv2.IMREAD_GRAYSCALE)
        np.testing.assert_array_equal(photos[i], expected)


def test_unreadable_and_small_images_are_skipped_with_a_warning(
    folder: Path, tmp_path: Path
) -> None:
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


def test_corners_of_a_square() -> None:
    image = np.full((80, 100), 40, np.uint8)
    image[20:61, 30:71] = 200
    found = detect_corners(image)
    assert found.dtype == np.float32
    expected = np.array([(29.5, 19.5), (70.5, 19.5), (29.5, 60.5), (70.5, 60.5)])
    for corner in expected:
        assert np.linalg.norm(found[:4] - corner, axis=1).min() < 1
    assert detect_corners(np.full((50, 50), 7, np.uint8)).shape == (0, 2)


def test_corners_keep_the_minimum_spacing(photographs: dict[str, np.ndarray]) -> None:
    found = detect_corners(photographs["camera"], max_corners=200, spacing=6)
    assert 100 < len(found) <= 200
    gaps = np.linalg.norm(found[:, None] - found[None], axis=2) + 99 * np.eye(len(found))
    assert gaps.min() > 2

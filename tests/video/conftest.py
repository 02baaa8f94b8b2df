"""Small sequences of moving pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.session import Session, load

Pictures = Sequence[np.ndarray]


@pytest.fixture
def moving(gray: np.ndarray) -> list[np.ndarray]:
    """Eight views (192, 256) of a photograph that moves by 8 px to the left and up per frame."""
    return [np.ascontiguousarray(gray[8 * i :, 8 * i :][:192, :256]) for i in range(8)]


@pytest.fixture(scope="session")
def classical() -> Session:
    """SIFT with nearest neighbors; unlike a random network it finds nothing in a blank image."""
    return load(features="sift", matcher="nn", threads=1, guided_matching=False)


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """make_video(pictures, name, rate): path of a video of gray pictures of one size."""

    def make(pictures: Pictures, name: str = "walk.avi", rate: float = 25.0) -> Path:
        path = tmp_path / name
        height, width = pictures[0].shape
        code = cv2.VideoWriter.fourcc(*("MJPG" if path.suffix == ".avi" else "mp4v"))
        video = cv2.VideoWriter(str(path), code, rate, (width, height))
        assert video.isOpened()
        for picture in pictures:
            video.write(cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR))
        video.release()
        return path

    return make


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """make_folder(pictures, name): path of a folder of pictures 0.png, 1.png, …"""

    def make(pictures: Pictures, name: str = "frames") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        for i, picture in enumerate(pictures):
            assert cv2.imwrite(str(folder / f"{i}.png"), picture)
        return folder

    return make

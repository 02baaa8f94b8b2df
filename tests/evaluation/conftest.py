"""Folders of small textured images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from scenes import Array, texture


@pytest.fixture(scope="session")
def shift_and_turn() -> Array:
    """A mild homography for images of 160×120."""
    return np.array([[0.98, -0.08, 9.0], [0.07, 1.01, -5.0], [1e-4, -5e-5, 1.0]])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with three textured images."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        cv2.imwrite(str(folder / name), texture(i))
    return folder


@pytest.fixture
def write_list(photos: Path) -> Callable[[Array], Path]:
    """Writes a list of homographies in which all photos have the same one."""

    def write(H: Array) -> Path:
        numbers = " ".join(f"{value:.12g}" for value in H.ravel())
        path = photos / "list.txt"
        path.write_text("".join(f"{name}.png {numbers}\n" for name in "abc"))
        return path

    return write

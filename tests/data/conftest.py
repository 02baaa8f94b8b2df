"""A small folder of photographs, and sampling of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.data.photographs import PhotoFolder


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    """A folder of three photographs, one in a subfolder; blurred so that they interpolate well."""
    root = tmp_path_factory.mktemp("photographs")
    (root / "below").mkdir()
    for name, image in photographs.items():
        smooth = cv2.GaussianBlur(cv2.resize(image, (400, 320)), (0, 0), 2.0)
        where = root / "below" if name == "coffee" else root
        cv2.imwrite(str(where / f"{name}.png"), smooth)
    return root


@pytest.fixture(scope="package")
def photos(folder: Path) -> PhotoFolder:
    return PhotoFolder(folder)


@pytest.fixture(scope="session")
def sample_image() -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """sample_image(image, points): bilinear intensities of an image at points (N, 2) xy."""

    def sample(image: np.ndarray, points: np.ndarray) -> np.ndarray:
        x, y = points.astype(np.float32).T
        found = cv2.remap(image.astype(np.float32), x[None], y[None], cv2.INTER_LINEAR)
        return np.asarray(found[0])

    return sample

"""A folder of small photographs, also as an atlas."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.data.photographs import PhotoFolder
from featherglue.train.batched.atlas import Atlas


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PhotoFolder:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for i, (width, height) in enumerate([(150, 111), (96, 140), (128, 97), (201, 130)]):
        image = rng.integers(0, 256, (height // 6, width // 6), np.uint8)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    return PhotoFolder(folder)


@pytest.fixture(scope="module")
def atlas(photos: PhotoFolder) -> Atlas:
    return Atlas(photos, "cpu")

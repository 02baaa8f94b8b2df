"""Photographs to train on."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for name, image in photographs.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(image, (240, 200)))
    return folder

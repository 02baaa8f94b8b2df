"""Images and calibration data of the tests of compression."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.compression.calibration import CalibrationData, prepare_calibration
from featherglue.models.model import Model

SIZE = (160, 120)


@pytest.fixture(scope="session")
def images(photographs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Two small photographs, gray."""
    return [cv2.resize(photographs[name], SIZE) for name in ("camera", "astronaut")]


@pytest.fixture(scope="session")
def calibration(models: dict[str, Model], images: list[np.ndarray]) -> dict[str, CalibrationData]:
    """Calibration data of each of `models`."""
    return {name: prepare_calibration(model, images, SIZE) for name, model in models.items()}

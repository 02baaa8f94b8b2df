"""Calibration data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.compression.calibration import CalibrationData, prepare_calibration
from featherglue.models.model import Model


@pytest.fixture(scope="session")
def calibration(
    models: dict[str, Model], photographs: dict[str, np.ndarray]
) -> dict[str, CalibrationData]:
    """Calibration data of the model "one-head"."""
    image = cv2.resize(photographs["camera"], (160, 120))
    return {"one-head": prepare_calibration(models["one-head"], [image], (160, 120))}

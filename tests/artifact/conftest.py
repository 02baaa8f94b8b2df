"""Calibration data."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.compression.calibration import Inputs, prepare_inputs
from featherglue.models.model import Model


@pytest.fixture(scope="session")
def inputs(models: dict[str, Model], photographs: dict[str, np.ndarray]) -> dict[str, Inputs]:
    """Calibration inputs of the model "one-head"."""
    image = cv2.resize(photographs["camera"], (160, 120))
    return {"one-head": prepare_inputs(models["one-head"], [image], (160, 120))}

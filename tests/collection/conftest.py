"""Photographs of a synthetic scene, as files."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from board_scene import Scene, camera, render


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory, photographs: dict[str, np.ndarray]) -> Scene:
    """Six photographs; one is in a sub-folder with a space and an umlaut in its name."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "zur Tür").mkdir()
    pictures = [
        cv2.resize(photographs[name], (side, side), interpolation=cv2.INTER_AREA)
        for name, side in (("coffee", 800), ("camera", 240), ("astronaut", 240))
    ]
    angles = np.linspace(-0.35, 0.35, 6)
    for i, angle in enumerate(angles):
        path = folder / (f"{i}.png" if i < 5 else "zur Tür/letztes Bild.png")
        cv2.imencode(".png", render(pictures, angle))[1].tofile(path)
    cameras = [camera(angle) for angle in angles]
    return Scene(
        folder, np.array([center for _, center in cameras]), np.array([R for R, _ in cameras])
    )

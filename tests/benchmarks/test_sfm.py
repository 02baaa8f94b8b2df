"""benchmarks/sfm.py: errors of camera poses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("sfm")


@dataclass(frozen=True)
class Pose:
    """An image of a model, as pycolmap has it."""

    name: str
    R: np.ndarray
    center: np.ndarray
    has_pose: bool = True

    def projection_center(self) -> np.ndarray:
        return self.center

    def cam_from_world(self) -> Any:
        @dataclass
        class Rotation:
            R: np.ndarray

            def matrix(self) -> np.ndarray:
                return self.R

        @dataclass
        class Rigid:
            rotation: Rotation

        return Rigid(Rotation(self.R))


class Model:
    """A model with poses that are those of a similarity of the world."""

    def __init__(self, images: list[Pose]) -> None:
        self.images = dict(enumerate(images))


def rotation(*angles: float) -> np.ndarray:
    return np.asarray(cv2.Rodrigues(np.array(angles))[0])


def test_errors_are_free_of_the_similarity_of_the_model(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (12, 3))
    rotations = [rotation(*rng.normal(0, 1, 3)) for _ in centers]
    poses = {}
    for i, (R, center) in enumerate(zip(rotations, centers, strict=True)):
        poses[str(i)] = np.r_[np.c_[R, -R @ center], [[0, 0, 0, 1]]]
    world, scale, shift = rotation(0.3, -1.2, 2.0), 3.7, np.array([5.0, -2.0, 1.0])
    turn = np.radians(0.5)
    images = [
        Pose(f"{i}.jpg", rotation(0, 0, turn * (-1) ** i) @ R @ world.T, scale * world @ c + shift)
        for i, (R, c) in enumerate(zip(rotations, centers, strict=True))
    ]
    images[3] = Pose("3.jpg", images[3].R, images[3].center + 100)  # a wrong camera
    errors = script.pose_errors(Model(images), poses)
    assert errors["center_percent"] < 0.05
    assert errors["rotation_degrees"] == pytest.approx(0.5, abs=0.1)


def test_ratios_are_geometric_means(script: ModuleType) -> None:
    def row(value: float) -> dict[str, float]:
        return {"track_length": value, "processor_seconds": 1.0}

    results = {
        "a": {"sift": row(2), "fast": row(4)},
        "b": {"sift": row(2), "fast": row(1)},
    }
    assert "fast / sift: track length 1.00" in script.ratios(results)

"""A synthetic scene with known cameras: textured planes at several depths."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SIZE = 400, 300
FOCAL = 380.0


@dataclass(frozen=True)
class Scene:
    """Photographs of a scene.

    Attributes:
        folder: of the photographs.
        centers: (N, 3) centers of the cameras.
        rotations: (N, 3, 3) from world to camera.
    """

    folder: Path
    centers: Array
    rotations: Array


def camera(angle: float) -> tuple[Array, Array]:
    """Rotation and center of a camera on an arc that looks at the scene."""
    center = np.array([5 * np.sin(angle), 0.3 * np.sin(3 * angle), 5 - 5 * np.cos(angle)])
    rotation = cv2.Rodrigues(np.array([0.02 * np.cos(5 * angle), angle, 0.0]))[0]
    return np.asarray(rotation), center


def render(pictures: list[Array], angle: float) -> Array:
    """The view of a camera: a wall, and boards in front of it, with pictures on them."""
    K = np.array([[FOCAL, 0, SIZE[0] / 2 - 0.5], [0, FOCAL, SIZE[1] / 2 - 0.5], [0, 0, 1]])
    R, center = camera(angle)
    view = np.zeros(SIZE[::-1], np.uint8)
    boards = [(7.0, (-5.0, -5.0), 10.0), (5.2, (-1.9, -1.5), 1.8), (4.8, (0.2, -0.5), 1.7)]
    for picture, (depth, (left, top), width) in zip(pictures, boards, strict=True):
        pixels = picture.shape[1]
        scale = width / pixels
        onto = np.array([[scale, 0, left], [0, scale, top], [0, 0, depth]])  # pixel -> world
        H = K @ R @ (onto - np.outer(center, (0, 0, 1)))
        warped = cv2.warpPerspective(picture, H, SIZE, flags=cv2.INTER_AREA)
        inside = cv2.warpPerspective(np.full_like(picture, 255), H, SIZE) > 250
        view[inside] = warped[inside]
    return view

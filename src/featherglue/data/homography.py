"""Random homographies: rotation, scale, shear, perspective and translation about the centre.

A homography H (3, 3) float64 maps pixel (x, y, 1) of one image to the other's, up to scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class HomographyRange:
    """How far a random homography goes.

    Attributes:
        rotation: largest angle, degrees. scale: largest factor; its inverse is the smallest.
        anisotropy: largest ratio of the scales along a random direction.
        perspective: largest change of w over half of the diagonal, along x and along y.
        translation: largest shift, as a share of the image's sides.
    """

    rotation: float = 30.0
    scale: float = 1.5
    anisotropy: float = 1.3
    perspective: float = 0.2
    translation: float = 0.15


def rotation_matrix(angle: float) -> Matrix:
    """Rotation by `angle` radians as (3, 3)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def shift(x: float, y: float) -> Matrix:
    """Translation by (x, y) as (3, 3)."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def sample_homography(
    rng: np.random.Generator, size: tuple[int, int], limits: HomographyRange
) -> Matrix:
    """Draw a homography that maps an image of `size` (width, height) to a view of that size."""
    width, height = size
    half_diagonal = np.hypot(width, height) / 2
    centre = (width - 1) / 2, (height - 1) / 2
    angle = np.deg2rad(rng.uniform(-limits.rotation, limits.rotation))
    scale = np.exp(rng.uniform(-1, 1) * np.log(limits.scale))
    stretch = np.exp(rng.uniform(0, 0.5) * np.log(limits.anisotropy))
    axis = rng.uniform(0, np.pi)
    linear = (
        rotation_matrix(angle)
        @ rotation_matrix(-axis)
        @ np.diag([scale * stretch, scale / stretch, 1.0])
        @ rotation_matrix(axis)
    )
    tilt = np.eye(3)
    tilt[2, :2] = rng.uniform(-1, 1, 2) * limits.perspective / half_diagonal
    move = rng.uniform(-1, 1, 2) * limits.translation * np.array([width, height])
    return shift(*move) @ shift(*centre) @ tilt @ linear @ shift(-centre[0], -centre[1])


def warp_points(points: NDArray[np.floating], homography: Matrix) -> Matrix:
    """Map points (N, 2) xy by H (3, 3). Points at or behind the horizon become NaN."""
    mapped = np.asarray(points, np.float64) @ homography[:, :2].T + homography[:, 2]
    w = mapped[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(w > 1e-9, mapped[:, :2] / w, np.nan)

"""Random homographies, and warping of points and images by a homography.

A homography H is (3, 3) float64. It maps pixel (x, y, 1) of one image to the other, up to scale.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
# Below this scale an image is halved with area averaging before it is warped.
_MIN_BILINEAR_SCALE = 0.6


@dataclass(frozen=True, kw_only=True)
class HomographyRange:
    """Limits of random homographies.

    Attributes:
        rotation: maximum angle, degrees.
        scale: maximum scale; the minimum is its inverse.
        anisotropy: maximum ratio of the two scales along a random pair of axes.
        perspective: maximum change of w over half of the image diagonal, along x and along y.
        translation: maximum translation, as a fraction of the image's sides.
    """

    rotation: float = 30.0
    scale: float = 1.5
    anisotropy: float = 1.3
    perspective: float = 0.2
    translation: float = 0.15


def rotation_matrix(angle: float) -> Matrix:
    """Rotation by `angle` radians as a (3, 3) homography."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def translation_matrix(x: float, y: float) -> Matrix:
    """Translation by (x, y) pixels as a (3, 3) homography."""
    return np.array([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]])


def sample_homography(
    rng: np.random.Generator, size: tuple[int, int], limits: HomographyRange
) -> Matrix:
    """Draw a homography between two images of `size` (width, height).

    It combines rotation, scale, anisotropic scale and perspective about the image center with a
    translation. Each factor is uniform within `limits`; scales are uniform in the logarithm.
    """
    width, height = size
    half_diagonal = np.hypot(width, height) / 2
    center = (width - 1) / 2, (height - 1) / 2
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
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-1, 1, 2) * limits.perspective / half_diagonal
    offset = rng.uniform(-1, 1, 2) * limits.translation * np.array([width, height])
    to_center = translation_matrix(-center[0], -center[1])
    from_center = translation_matrix(*center)
    return translation_matrix(*offset) @ from_center @ perspective @ linear @ to_center


def warp_points(points: NDArray[np.floating], homography: Matrix) -> Matrix:
    """Map points (N, 2) xy by H (3, 3). Points on or behind the horizon become NaN."""
    mapped = np.asarray(points, np.float64) @ homography[:, :2].T + homography[:, 2]
    w = mapped[:, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(w > 1e-9, mapped[:, :2] / w, np.nan)


def warp_image(
    image: NDArray[np.uint8], homography: Matrix, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Warp a gray image by a homography, bilinear, black outside of the image.

    Where the scale at the center is below 0.6, the image is halved by area averaging first.

    Args:
        image: (H, W) uint8.
        homography: (3, 3), from image to result.
        size: (width, height) of the result.

    Returns:
        (height, width) uint8.
    """
    height, width = image.shape
    center = np.linalg.inv(homography) @ ((size[0] - 1) / 2, (size[1] - 1) / 2, 1.0)
    w = homography[2] @ (center / center[2])
    scale = np.sqrt(abs(np.linalg.det(homography)) / abs(w) ** 3)
    if scale < _MIN_BILINEAR_SCALE and min(width, height) >= 16:
        half = (width // 2, height // 2)
        image = np.asarray(cv2.resize(image, half, interpolation=cv2.INTER_AREA))
        enlarge = np.diag([width / half[0], height / half[1], 1.0])
        to_corner, to_center = translation_matrix(0.5, 0.5), translation_matrix(-0.5, -0.5)
        homography = homography @ to_center @ enlarge @ to_corner
    return np.asarray(cv2.warpPerspective(image, homography, size, flags=cv2.INTER_LINEAR))

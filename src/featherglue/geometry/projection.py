"""Points and errors under a homography.

Points are (x, y) pixels; sizes are (width, height).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Floats = NDArray[np.floating]


def warp_points(points: Floats, H: Array) -> Array:
    """Map points (N, 2) by a homography H (3, 3); NaN where the image is not a finite point."""
    mapped = np.asarray(points, np.float64) @ H[:, :2].T + H[:, 2]
    with np.errstate(divide="ignore", invalid="ignore"):
        result = mapped[:, :2] / mapped[:, 2:]
    return np.where(np.isfinite(result), result, np.nan)


def reprojection_errors(points0: Floats, points1: Floats, H: Array) -> Array:
    """Distances (M,) in px between H(points0) and points1; infinite for points at infinity."""
    errors = np.linalg.norm(warp_points(points0, H) - points1, axis=1)
    return np.where(np.isnan(errors), np.inf, errors)


def corner_error(H: Array, truth: Array, size: tuple[int, int]) -> float:
    """Mean distance in px of the four corner pixels of image 0 under two homographies.

    Args:
        H: (3, 3) estimated H_0to1.
        truth: (3, 3) true H_0to1.
        size: (width, height) of image 0.

    Returns:
        The mean of the four L2 distances; infinite where a corner maps to infinity or
        a matrix is not finite.
    """
    width, height = size
    corners = np.array(
        [[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (corners @ M.T for M in (H, truth))
        difference = first[:, :2] / first[:, 2:] - second[:, :2] / second[:, 2:]
    error = float(np.linalg.norm(difference, axis=1).mean())
    return error if np.isfinite(error) else float("inf")


def hartley_normalization(points: Floats) -> Array:
    """Similarity (3, 3) that moves the mean to 0 and the mean distance from it to √2.

    Hartley, In Defense of the Eight-Point Algorithm, 1997.
    """
    center = np.mean(points, 0)
    spread = float(np.linalg.norm(points - center, axis=1).mean())
    scale = np.sqrt(2) / max(spread, 1e-12)
    return np.array([[scale, 0, -scale * center[0]], [0, scale, -scale * center[1]], [0, 0, 1]])

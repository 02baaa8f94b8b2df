"""Checks of the arguments of the geometry functions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.errors import EstimationError, UsageError

Matrix = NDArray[np.float64]


def matched_points(
    points0: ArrayLike, points1: ArrayLike, minimum: int, model: str
) -> tuple[Matrix, Matrix]:
    """Matched points as contiguous float64 arrays.

    Args:
        points0, points1: (M, 2) (x, y) pixels.
        minimum: smallest number of matches that determines the model.
        model: what is estimated, for messages, such as "a homography".

    Raises:
        UsageError: another shape, or a coordinate that is not finite.
        EstimationError: fewer than `minimum` matches.
    """
    first, second = _points(points0, "points0"), _points(points1, "points1")
    if len(first) != len(second):
        raise UsageError(
            f"points0 and points1 must have the same length, not {len(first)} and {len(second)}"
        )
    if len(first) < minimum:
        raise EstimationError(f"{model} needs at least {minimum} matches, there are {len(first)}")
    return first, second


def _points(points: ArrayLike, name: str) -> Matrix:
    try:
        array = np.ascontiguousarray(points, np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name} must be an (M, 2) array of numbers") from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise UsageError(f"{name} must be (M, 2), not {array.shape}")
    finite = np.isfinite(array).all(1)
    if not finite.all():
        raise UsageError(f"{name} must be finite; row {int(finite.argmin())} is not")
    return array


def check_threshold(threshold: float, name: str = "threshold") -> None:
    """Raise UsageError unless the threshold is a positive, finite number of pixels."""
    if not (math.isfinite(threshold) and threshold > 0):
        raise UsageError(f"{name} must be a positive number of pixels, not {threshold}")


def check_sampling(iterations: int, confidence: float) -> None:
    """Raise UsageError unless iterations ≥ 1 and 0 < confidence < 1."""
    if iterations < 1:
        raise UsageError(f"iterations must be at least 1, not {iterations}")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence must lie between 0 and 1, not {confidence}")


def intrinsics(K: ArrayLike, name: str = "K") -> Matrix:
    """An intrinsic matrix as a float64 array.

    Raises:
        UsageError: not (3, 3), not finite, a focal length that is not positive, or singular.
    """
    try:
        matrix = np.asarray(K, np.float64)
    except (TypeError, ValueError):
        raise UsageError(f"{name} must be a (3, 3) array of numbers") from None
    if matrix.shape != (3, 3):
        raise UsageError(f"{name} must be (3, 3), not {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise UsageError(f"{name} must be finite")
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        focal = f"{matrix[0, 0]:g} and {matrix[1, 1]:g}"
        raise UsageError(f"{name} must have positive focal lengths, not {focal}")
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise UsageError(f"{name} must not be singular")
    return matrix

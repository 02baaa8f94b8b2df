"""Checks of the arguments of the geometry functions."""

from __future__ import annotations

import math
import numbers

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.errors import EstimationError, UsageError

Matrix = NDArray[np.float64]
_MAX_ITERATIONS = 1_000_000
_MAX_COORDINATE = 1e9  # px; beyond, products of coordinates lose all digits


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
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} must be an (M, 2) array of numbers") from None
    if array.ndim != 2 or array.shape[1] != 2:
        raise UsageError(f"{name} must be (M, 2), not {array.shape}")
    finite = np.isfinite(array).all(1)
    if not finite.all():
        raise UsageError(f"{name} must be finite; row {int(finite.argmin())} is not")
    if array.size and np.abs(array).max() > _MAX_COORDINATE:
        raise UsageError(f"{name} must be pixels, at most {_MAX_COORDINATE:g} from the origin")
    return array


def check_threshold(threshold: float, name: str = "threshold") -> None:
    """Raise UsageError unless the threshold is a positive, finite number of pixels."""
    if not (_is_number(threshold) and 0 < threshold <= _MAX_COORDINATE):
        raise UsageError(f"{name} must be a positive number of pixels, not {threshold!r}")


def check_estimation(
    threshold: float,
    iterations: int,
    confidence: float,
    seed: int,
    size1: tuple[int, int] | None,
    max_false_alarms: float | None,
) -> None:
    """Check the arguments that all estimators share.

    Raises:
        UsageError: not 0 < threshold, 1 ≤ iterations ≤ 10⁶, 0 < confidence < 1, seed ≥ 0, size1
            (width, height) of at least 1 or None, 0 < max_false_alarms or None.
    """
    check_threshold(threshold)
    if not (_is_integer(iterations) and 1 <= iterations <= _MAX_ITERATIONS):
        raise UsageError(
            f"iterations must be an integer in [1, {_MAX_ITERATIONS:,}], not {iterations!r}"
        )
    if not (_is_number(confidence) and 0 < confidence < 1):
        raise UsageError(f"confidence must lie between 0 and 1, not {confidence!r}")
    if not (_is_integer(seed) and seed >= 0):
        raise UsageError(f"seed must be an integer of at least 0, not {seed!r}")
    if size1 is not None:
        pair = isinstance(size1, (tuple, list)) and len(size1) == 2
        if not (pair and all(_is_integer(side) and side >= 1 for side in size1)):
            raise UsageError(f"size1 must be (width, height), at least 1 each, not {size1!r}")
    maximum = max_false_alarms
    if maximum is not None and not (_is_number(maximum) and 0 < maximum < math.inf):
        raise UsageError(f"max_false_alarms must be a positive number or None, not {maximum!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def intrinsics(K: ArrayLike, name: str = "K") -> Matrix:
    """An intrinsic matrix as a float64 array.

    Raises:
        UsageError: not (3, 3), not finite, a focal length that is not positive, or singular.
    """
    try:
        matrix = np.asarray(K, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} must be a (3, 3) array of numbers") from None
    if matrix.shape != (3, 3):
        raise UsageError(f"{name} must be (3, 3), not {matrix.shape}")
    if not np.isfinite(matrix).all() or np.abs(matrix).max() > _MAX_COORDINATE:
        raise UsageError(f"{name} must be finite, in pixels of at most {_MAX_COORDINATE:g}")
    if not (matrix[0, 0] > 0 and matrix[1, 1] > 0):
        focal = f"{matrix[0, 0]:g} and {matrix[1, 1]:g}"
        raise UsageError(f"{name} must have positive focal lengths, not {focal}")
    if abs(np.linalg.det(matrix)) < 1e-12:
        raise UsageError(f"{name} must not be singular")
    return matrix

"""Homographies and fundamental matrices by direct linear transforms."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.errors import EstimationError, UsageError
from featherglue.geometry.arguments import matched_points
from featherglue.geometry.projection import hartley_normalization

Matrix = NDArray[np.float64]


def weighted_homography(
    points0: ArrayLike, points1: ArrayLike, weights: NDArray[np.floating]
) -> Matrix:
    """Fit a homography to all matches by the weighted direct linear transform (Hartley 1997).

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        weights: (M,) at least 0.

    Returns:
        (3, 3) H_0to1 with H[2, 2] = 1.

    Raises:
        EstimationError: fewer than four matches have a positive weight, or they are degenerate.
        UsageError: an argument has another shape or is not finite.
    """
    first, second = matched_points(points0, points1, 4, "a homography")
    weights = np.asarray(weights)
    if weights.shape != (len(first),) or not (np.isfinite(weights) & (weights >= 0)).all():
        raise UsageError(f"weights must be ({len(first)},), finite and at least 0")
    if np.count_nonzero(weights > 0) < 4:
        raise EstimationError("a homography needs four matches with a positive weight")
    T0, T1 = (hartley_normalization(np.asarray(points)) for points in (points0, points1))
    x0, y0 = (first * T0[0, 0] + T0[:2, 2]).T
    x1, y1 = (second * T1[0, 0] + T1[:2, 2]).T
    zero, one = np.zeros_like(x0), np.ones_like(x0)
    rows = np.concatenate(
        (
            np.stack((-x0, -y0, -one, zero, zero, zero, x1 * x0, x1 * y0, x1), 1),
            np.stack((zero, zero, zero, -x0, -y0, -one, y1 * x0, y1 * y0, y1), 1),
        )
    )
    weighted = rows * np.sqrt(np.asarray(weights, np.float64))[np.r_[: len(x0), : len(x0)], None]
    _, values, vectors = np.linalg.svd(weighted, full_matrices=len(x0) < 5)
    H = np.linalg.inv(T1) @ vectors[-1].reshape(3, 3) @ T0
    if values[7] < 1e-9 * values[0] or abs(H[2, 2]) < 1e-12:
        raise EstimationError("the matches are degenerate: they do not determine a homography")
    return np.asarray(H / H[2, 2])


def linear_fundamental(points0: ArrayLike, points1: ArrayLike) -> Matrix:
    """Fit a fundamental matrix to all matches by the normalized 8-point algorithm (Hartley 1997).

    Matches of a plane, or of two views from one place, do not determine it. The result is then one
    of many that fit.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.

    Returns:
        (3, 3) F of rank 2 and norm 1, with x1ᵀ·F·x0 = 0.

    Raises:
        EstimationError: fewer than eight matches.
        UsageError: an argument has another shape or is not finite.
    """
    first, second = matched_points(points0, points1, 8, "a fundamental matrix")
    T0, T1 = (hartley_normalization(points) for points in (first, second))
    x0, y0 = (first * T0[0, 0] + T0[:2, 2]).T
    x1, y1 = (second * T1[0, 0] + T1[:2, 2]).T
    rows = np.stack((x1 * x0, x1 * y0, x1, y1 * x0, y1 * y0, y1, x0, y0, np.ones_like(x0)), 1)
    _, _, vectors = np.linalg.svd(rows, full_matrices=len(rows) < 9)
    left, values, right = np.linalg.svd(vectors[-1].reshape(3, 3))
    F = T1.T @ (left[:, :2] * values[:2]) @ right[:2] @ T0
    return np.asarray(F / np.linalg.norm(F))

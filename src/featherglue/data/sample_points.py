"""Points of a training sample: a random choice of bounded number, padded to a fixed number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def choose_points(
    rng: np.random.Generator, usable: NDArray[np.bool_], max_points: int
) -> NDArray[np.int64]:
    """Choose at most `max_points` of the usable points at random.

    Args:
        usable: (N,) bool.

    Returns:
        (M,) int64, ascending indices of the chosen points.
    """
    chosen = np.flatnonzero(usable)
    if len(chosen) > max_points:
        chosen = np.sort(rng.choice(chosen, max_points, replace=False))
    return chosen


def padded_rows(rows: NDArray[np.floating], count: int) -> NDArray[np.float32]:
    """Rows (M, D) of any float type, followed by zeros: (count, D) float32."""
    padded = np.zeros((count, rows.shape[1]), np.float32)
    padded[: len(rows)] = rows
    return padded

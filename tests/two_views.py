"""Synthetic matches of two views with a known geometry."""

from __future__ import annotations

import cv2
import numpy as np

SIZE = 640, 480
H_TRUE = np.array([[1.05, 0.12, -20.0], [-0.08, 0.95, 15.0], [2e-4, -1e-4, 1.0]])
K0 = np.array([[520.0, 0, 319.5], [0, 525.0, 239.5], [0, 0, 1]])
K1 = np.array([[480.0, 0, 330.0], [0, 478.0, 228.0], [0, 0, 1]])
R_TRUE = cv2.Rodrigues(np.array([0.05, -0.2, 0.1]))[0]
T_TRUE = np.array([0.8, -0.1, 0.3])


def project(H: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = np.c_[points, np.ones(len(points))] @ H.T
    return mapped[:, :2] / mapped[:, 2:]


def planar_matches(
    count: int = 200, outliers: int = 0, noise: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Matches under H_TRUE, the outliers last."""
    rng = np.random.default_rng(seed)
    points0 = rng.random((count, 2)) * SIZE
    points1 = project(H_TRUE, points0) + rng.normal(0, 1, (count, 2)) * noise
    if outliers:
        points1[-outliers:] = rng.random((outliers, 2)) * SIZE
    return points0.astype(np.float32), points1.astype(np.float32)


def spatial_matches(
    R: np.ndarray = R_TRUE,
    t: np.ndarray = T_TRUE,
    *,
    count: int = 200,
    outliers: int = 0,
    plane: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Matches of points in space, or on a slanted plane, seen by K0 and K1."""
    rng = np.random.default_rng(seed)
    pixels = rng.random((count, 2)) * SIZE
    rays = np.c_[pixels, np.ones(count)] @ np.linalg.inv(K0).T
    slanted = 6 / (rays @ np.array([0.3, -0.2, 1.0]))
    depth = slanted if plane else rng.uniform(3, 9, count)
    world = rays * depth[:, None]
    seen = (world @ R.T + t) @ K1.T
    points1 = seen[:, :2] / seen[:, 2:]
    if outliers:
        points1[-outliers:] = rng.random((outliers, 2)) * SIZE
    return pixels, points1


def pose_matrix(R: np.ndarray = R_TRUE, t: np.ndarray = T_TRUE) -> np.ndarray:
    """T_0to1 (4, 4)."""
    return np.r_[np.c_[R, t], [[0, 0, 0, 1]]]

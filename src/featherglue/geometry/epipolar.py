"""Epipolar geometry: rays, essential matrices, and the errors of matches and poses.

Rays are normalized image coordinates (x/z, y/z). A pose maps camera 0 to camera 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.geometry.arguments import intrinsics
from featherglue.geometry.projection import warp_points

if TYPE_CHECKING:
    from featherglue.geometry.estimates import RelativePose

Array = NDArray[np.float64]
Floats = NDArray[np.floating]


def normalize_points(points: Floats, K: ArrayLike) -> Array:
    """Rays (M, 2) of pixels (M, 2), for a camera with the intrinsics K (3, 3).

    Raises:
        UsageError: K is not (3, 3), not finite or singular, or a focal length is not positive.
    """
    rays = homogeneous(points) @ np.linalg.inv(intrinsics(K)).T
    return np.asarray(rays[:, :2] / rays[:, 2:])


def mean_focal_length(K0: Array, K1: Array) -> float:
    """Mean of the four focal lengths of two cameras, in px."""
    return float(np.mean([K0[0, 0], K0[1, 1], K1[0, 0], K1[1, 1]]))


def homogeneous(points: Floats) -> Array:
    """Points (M, 2) with a third coordinate 1: (M, 3) float64."""
    return np.column_stack((np.asarray(points, np.float64), np.ones(len(points))))


def cross_matrix(v: Array) -> Array:
    """Matrix [v]× (3, 3) of a vector (3,), with [v]×·w = v × w."""
    x, y, z = v
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def essential_matrix(R: Array, t: Array) -> Array:
    """Essential matrix E = [t]×·R (3, 3) of a pose, with x1ᵀ·E·x0 = 0 for rays x0 and x1."""
    return np.asarray(cross_matrix(t) @ R)


def sampson_distances(F: Array, points0: Floats, points1: Floats) -> Array:
    """First-order distances (M,) of matches from the epipolar geometry.

    Args:
        F: (3, 3) fundamental matrix for points in px, or essential matrix for rays.
        points0, points1: (M, 2) matched points.

    Returns:
        (M,) distances, at least 0, in the unit of the points.
    """
    lines1, lines0 = homogeneous(points0) @ F.T, homogeneous(points1) @ F
    products = (homogeneous(points1) * lines1).sum(1)
    squares = np.square(lines1[:, :2]).sum(1) + np.square(lines0[:, :2]).sum(1)
    return np.asarray(np.abs(products) / np.sqrt(np.maximum(squares, 1e-24)))


def line_offsets(F: Array, points0: Floats, points1: Floats) -> Array:
    """Offsets (M, 2) from points of image 1 to the nearest points of their epipolar lines.

    Args:
        F: (3, 3) fundamental matrix for points in px, or essential matrix for rays.
        points0, points1: (M, 2) matched points.

    Returns:
        (M, 2) offsets in the unit of the points; 0 for points whose epipolar line is undefined.
    """
    lines1 = homogeneous(points0) @ F.T
    products = (homogeneous(points1) * lines1).sum(1)
    squares = np.square(lines1[:, :2]).sum(1)
    return np.asarray(-(products / np.maximum(squares, 1e-24))[:, None] * lines1[:, :2])


def epipolar_errors(rays0: Floats, rays1: Floats, T_0to1: Array) -> Array:
    """Symmetric squared distances of matches to their epipolar lines.

    The definition is that of SuperGlue's evaluation (Sarlin et al. 2020).

    Args:
        rays0, rays1: (M, 2) matched points as rays.
        T_0to1: (4, 4) or (3, 4) true pose. Without a translation there are no epipolar lines; the
            symmetric squared distance to the rotated ray is used instead.

    Returns:
        (M,) squared distances between rays, at least 0; infinite for a point on an epipole or
        behind a camera.
    """
    R, t = np.asarray(T_0to1[:3, :3], np.float64), np.asarray(T_0to1[:3, 3], np.float64)
    if not t.any():
        offset1 = warp_points(rays0, R) - rays1
        offset0 = warp_points(rays1, R.T) - rays0
        errors = (offset0**2).sum(1) + (offset1**2).sum(1)
    else:
        first, second = homogeneous(rays0), homogeneous(rays1)
        E = essential_matrix(R, t)
        line1, line0 = first @ E.T, second @ E
        residual = (second * line1).sum(1) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = residual * (1 / (line1[:, :2] ** 2).sum(1) + 1 / (line0[:, :2] ** 2).sum(1))
    return np.where(np.isnan(errors), np.inf, errors)


def pose_errors(pose: RelativePose, T_0to1: Array) -> tuple[float, float]:
    """Errors of an estimated pose: the angles of its rotation and of its translation.

    As in SuperGlue's evaluation the sign of the translation is ignored.

    Args:
        pose: the estimate.
        T_0to1: (4, 4) or (3, 4) true pose; its translation may have any length but 0.

    Returns:
        Degrees between the rotations, in [0, 180], and between the directions of translation, in
        [0, 90].
    """
    R, t = T_0to1[:3, :3], T_0to1[:3, 3]
    cosine = (np.trace(pose.R.T @ R) - 1) / 2
    rotation = float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    cosine = pose.t @ t / max(float(np.linalg.norm(pose.t) * np.linalg.norm(t)), 1e-12)
    translation = float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    return rotation, min(translation, 180 - translation)

"""From a robust estimate to a close fit: least squares that mistrust what does not fit.

RANSAC and its kin stop at a model that enough matches agree with to a few pixels. With matches that
are good to a tenth of a pixel that is far from the best one, and it depends on their order. From
there iteratively re-weighted least squares go on, by Gauss and Newton: weights of Geman and McClure
(1985), their scale from the median residual, so that it shrinks as the fit gets better. That suits
matches of which most are good and some are off by a pixel or two, as they are in photographs; where
all deviate alike (by a pixel, normally distributed) MAGSAC++ alone is about a tenth closer.

Shape legend: M matches, U unknowns, P models.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
Slopes = tuple[Matrix, Matrix]

_ROUNDS = 10
_FEWEST = 12  # matches that must fit
# Residuals of this many times their median have a quarter of the weight of none.
_WIDTH = 2.4
# px: medians below say that nearly all fits, not how good the good ones are.
_LEAST = 0.05
# A step by which the unknowns are settled.
_SETTLED = 1e-6


def optimize_homography(
    H: Matrix, points0: NDArray[np.floating], points1: NDArray[np.floating], threshold: float
) -> Matrix:
    """H_0to1 (3, 3) of least weighted distances in image 1, from an estimate on.

    Args:
        H: the estimate. points0, points1: (M, 2) xy pixels. threshold: px, of an inlier; what is
            farther off has no say.

    Returns:
        with H[2, 2] = 1; the estimate itself where fewer than twelve matches fit, or where the
        result fits worse.
    """
    points0, points1 = _finite(points0, points1)
    T0, T1 = normalization(points0), normalization(points1)
    x, y = (points0 * T0[0, 0] + T0[:2, 2]).T
    target = (points1 * T1[0, 0] + T1[:2, 2]).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    places = np.stack((x, y, one))

    def residuals(h: Matrix) -> Slopes:
        u, v = h[:6].reshape(2, 3) @ places
        w = h[6] * x + h[7] * y + 1
        u, v, (x_w, y_w, one_w) = u / w, v / w, places / w
        slopes = (
            (x_w, y_w, one_w, zero, zero, zero, -u * x_w, -u * y_w),
            (zero, zero, zero, x_w, y_w, one_w, -v * x_w, -v * y_w),
        )
        return np.stack((u, v)) - target, np.array(slopes).transpose(0, 2, 1)

    start = T1 @ H @ np.linalg.inv(T0)
    start = (start / start[2, 2]).reshape(-1)[:8]
    h = _descend(start, residuals, lambda h, step: h + step, threshold, float(T1[0, 0]))
    if h is start:
        return H
    optimized = np.linalg.inv(T1) @ np.append(h, 1.0).reshape(3, 3) @ T0
    if not (np.isfinite(optimized).all() and abs(optimized[2, 2]) > 1e-12):
        return H
    return np.asarray(optimized / optimized[2, 2])


def optimize_fundamental(
    F: Matrix, points0: NDArray[np.floating], points1: NDArray[np.floating], threshold: float
) -> Matrix:
    """F (3, 3) of rank 2 and norm 1, of least weighted Sampson distances, from an estimate on.

    Args:
        as for `optimize_homography`, with x1ᵀ·F·x0 = 0.

    Returns:
        F as given where fewer than twelve matches fit, or where the result fits worse.
    """
    points0, points1 = _finite(points0, points1)
    T0, T1 = normalization(points0), normalization(points1)
    scale = math.sqrt(T0[0, 0] * T1[0, 0])  # one for both, or distances would mean nothing
    T0[:2] *= scale / T0[0, 0]
    T1[:2] *= scale / T1[0, 0]
    at0, at1 = (_homogeneous(p) @ T.T for p, T in ((points0, T0), (points1, T1)))

    def matrix(model: Matrix) -> Matrix:
        return np.asarray(model[:, :3] * (1, model[0, 6], 0) @ model[:, 3:6].T)

    def moved(model: Matrix, step: Matrix) -> Matrix:
        values = np.array([model[0, 6] + step[6], 0, 0])
        turned = _turn(step[:3]) @ model[:, :3], _turn(step[3:6]) @ model[:, 3:6]
        return np.column_stack((*turned, values))

    def residuals(model: Matrix) -> Slopes:
        F = matrix(model)
        by_value = np.outer(model[:, 1], model[:, 4])[None]
        return _epipolar(at0, at1, F, np.concatenate((_AXES @ F, -F @ _AXES, by_value)))

    U, values, Vt = np.linalg.svd(np.linalg.inv(T1).T @ F @ np.linalg.inv(T0))
    ratio = np.array([values[1] / values[0], 0, 0])
    start = np.column_stack((U, Vt.T, ratio))  # Bartoli, Sturm (2004)
    model = _descend(start, residuals, moved, threshold, scale)
    if model is start:
        return F
    optimized = T1.T @ matrix(model) @ T0
    return np.asarray(optimized / np.linalg.norm(optimized))


def optimize_pose(
    R: Matrix, t: Matrix, rays0: Matrix, rays1: Matrix, threshold: float, focal: float
) -> tuple[Matrix, Matrix]:
    """Rotation (3, 3) and direction of translation (3,) of least weighted Sampson distances.

    Args:
        R, t: the estimate, from camera 0 to camera 1. rays0, rays1: (M, 2), x/z and y/z.
        threshold: px, of an inlier. focal: px, of a ray's unit.

    Returns:
        R and t as given where fewer than twelve matches fit, or where the result fits worse.
    """
    at0, at1 = (_homogeneous(rays) for rays in _finite(rays0, rays1))

    def residuals(pose: Matrix) -> Slopes:
        R, cross = pose[:, :3], _cross(pose[:, 3])
        across = np.stack([_cross(side) for side in _across(pose[:, 3])])
        return _epipolar(at0, at1, cross @ R, np.concatenate((cross @ _AXES @ R, across @ R)))

    start = np.column_stack((R, t / np.linalg.norm(t)))
    pose = _descend(start, residuals, _moved_pose, threshold, 1 / focal)
    return (R, t) if pose is start else (pose[:, :3], pose[:, 3])


def essential(pose: Matrix) -> Matrix:
    """E (3, 3) of a pose (3, 4), x1ᵀ·E·x0 = 0."""
    return np.asarray(_cross(pose[:, 3]) @ pose[:, :3])


def sampson_distances(F: Matrix, points0: Matrix, points1: Matrix) -> Matrix:
    """(M,) distances of matches (M, 2) from F or E, to first order, in their unit."""
    lines1, lines0 = _homogeneous(points0) @ F.T, _homogeneous(points1) @ F
    products = (_homogeneous(points1) * lines1).sum(1)
    slopes = np.square(lines1[:, :2]).sum(1) + np.square(lines0[:, :2]).sum(1)
    return np.asarray(np.abs(products) / np.sqrt(np.maximum(slopes, 1e-24)))


def normalization(points: NDArray[np.floating]) -> Matrix:
    """(3, 3): to the centre 0 and the mean distance √2 from it (Hartley 1997)."""
    centre = np.mean(points, 0)
    spread = float(np.linalg.norm(points - centre, axis=1).mean())
    scale = np.sqrt(2) / max(spread, 1e-12)
    return np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])


def _descend(
    start: Matrix,
    residuals: Callable[[Matrix], Slopes],
    moved: Callable[[Matrix, Matrix], Matrix],
    threshold: float,
    unit: float,
) -> Matrix:
    """Gauss–Newton steps with weights that follow the residuals; `start` itself where they lead to
    nothing better.

    Args:
        residuals: of a model: (K, M), and their slopes by the unknowns (K, M, U).
        moved: a model after a step (U,). unit: a pixel, in the unit of the residuals.
    """
    model, width = start, 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # points at the horizon
        for _ in range(_ROUNDS):
            gaps, slopes = residuals(model)
            squares = np.square(gaps).sum(0)
            near = np.flatnonzero(squares < (threshold * unit) ** 2)
            if len(near) < _FEWEST:
                return start
            squares = squares[near]
            width = _WIDTH * max(math.sqrt(np.median(squares)), _LEAST * unit)
            root = 1 / (1 + squares / width**2)  # of the weights
            by = (slopes[:, near] * root[:, None]).reshape(-1, slopes.shape[-1])
            right = by.T @ (gaps[:, near] * root).reshape(-1)
            step = -np.linalg.lstsq(by.T @ by, right, rcond=None)[0]
            model = moved(model, step)
            if np.abs(step).max() < _SETTLED:
                break
        gains = [
            np.nansum(width**2 / (np.square(residuals(one)[0]).sum(0) + width**2))
            for one in (start, model)
        ]
    return model if gains[1] >= gains[0] else start


def _epipolar(at0: Matrix, at1: Matrix, F: Matrix, changes: Matrix) -> Slopes:
    """Sampson distances (1, M), signed, and their slopes (1, M, U) by changes (U, 3, 3) of F."""
    models = np.concatenate((F[None], changes))
    lines1, lines0 = at0 @ models.transpose(0, 2, 1), at1 @ models
    product, *products = (at1 * lines1).sum(2)
    along1, along0 = lines1[..., :2], lines0[..., :2]
    squares = (along1[0] * along1).sum(2) + (along0[0] * along0).sum(2)
    square = np.maximum(squares[0], 1e-24)
    distance = product / np.sqrt(square)
    slopes = np.stack(products) / np.sqrt(square) - distance * squares[1:] / square
    return distance[None], slopes.T[None]


def _moved_pose(pose: Matrix, step: Matrix) -> Matrix:
    """A pose (3, 4) after a small rotation, and a step of its translation on the unit sphere."""
    there = pose[:, 3] + step[3:] @ _across(pose[:, 3])
    return np.column_stack((_turn(step[:3]) @ pose[:, :3], there / np.linalg.norm(there)))


def _across(t: Matrix) -> Matrix:
    """(2, 3): two directions at right angles to t and to each other."""
    cross = _cross(t)
    first = cross[:, np.abs(t).argmin()]
    first = first / np.linalg.norm(first)
    return np.stack((first, cross @ first))


def _turn(axis: Matrix) -> Matrix:
    """The rotation about an axis (3,) by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(axis))
    K = _cross(axis / max(angle, 1e-300))
    return np.asarray(np.eye(3) + math.sin(angle) * K + (1 - math.cos(angle)) * (K @ K))


def _cross(v: Matrix) -> Matrix:
    x, y, z = v
    return np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def _finite(points0: NDArray[np.floating], points1: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """Those of the matches that have finite points on both sides."""
    both = np.column_stack((points0, points1)).astype(np.float64)
    both = both[np.isfinite(both).all(1)]
    return both[:, :2], both[:, 2:]


def _homogeneous(points: NDArray[np.floating]) -> Matrix:
    return np.column_stack((np.asarray(points, np.float64), np.ones(len(points))))


_AXES = np.stack([_cross(axis) for axis in np.eye(3)])

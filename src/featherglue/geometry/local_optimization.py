"""Least-squares refinement of a robust estimate over its inliers.

RANSAC stops at a model that enough matches fit to a few pixels. Matches that are accurate to a
tenth of a pixel determine a better model. It is found by iteratively re-weighted Gauss–Newton steps
with Geman–McClure weights (1985), whose scale follows the median residual.

Shape legend: M matches, K residuals per match, U unknowns.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.epipolar import cross_matrix, homogeneous
from featherglue.geometry.projection import hartley_normalization
from featherglue.native import kernels

Matrix = NDArray[np.float64]
# Residuals and their derivatives by the unknowns.
Linearization = tuple[Matrix, Matrix]

_MAX_ITERATIONS = 10
_MIN_MATCHES = 12  # within the threshold
# Weight scale over the median residual: residuals of this size have a quarter of the full weight.
_SCALE_FACTOR = 2.4
_MIN_MEDIAN = 0.05  # px, lower bound of the median; keeps exact matches from a scale of zero
_MIN_STEP = 1e-6  # the iteration ends at a smaller step


def optimize_homography(
    H: Matrix, points0: NDArray[np.floating], points1: NDArray[np.floating], threshold: float
) -> Matrix:
    """Minimize the weighted distances in image 1 over homographies, starting from an estimate.

    Args:
        H: (3, 3) estimated H_0to1.
        points0, points1: (M, 2) (x, y) pixels; matches that are not finite are ignored.
        threshold: px, distance beyond which a match has no weight.

    Returns:
        (3, 3) H_0to1 with H[2, 2] = 1. The given `H` itself if fewer than twelve matches lie
        within the threshold, or if the result fits worse.
    """
    points0, points1 = _finite(points0, points1)
    if len(points0) < _MIN_MATCHES:
        return H
    T0, T1 = hartley_normalization(points0), hartley_normalization(points1)
    x, y = (points0 * T0[0, 0] + T0[:2, 2]).T
    target = (points1 * T1[0, 0] + T1[:2, 2]).T
    zero, one = np.zeros_like(x), np.ones_like(x)
    source = np.stack((x, y, one))

    def linearize(h: Matrix) -> Linearization:
        u, v = h[:6].reshape(2, 3) @ source
        w = h[6] * x + h[7] * y + 1
        u, v, (x_w, y_w, one_w) = u / w, v / w, source / w
        derivatives = (
            (x_w, y_w, one_w, zero, zero, zero, -u * x_w, -u * y_w),
            (zero, zero, zero, x_w, y_w, one_w, -v * x_w, -v * y_w),
        )
        return np.stack((u, v)) - target, np.array(derivatives).transpose(0, 2, 1)

    initial = T1 @ H @ np.linalg.inv(T0)
    initial = (initial / initial[2, 2]).reshape(-1)[:8]
    h = _gauss_newton(initial, linearize, lambda h, step: h + step, threshold, float(T1[0, 0]))
    if h is initial:
        return H
    optimized = np.linalg.inv(T1) @ np.append(h, 1.0).reshape(3, 3) @ T0
    if not (np.isfinite(optimized).all() and abs(optimized[2, 2]) > 1e-12):
        return H
    return np.asarray(optimized / optimized[2, 2])


def optimize_fundamental(
    F: Matrix, points0: NDArray[np.floating], points1: NDArray[np.floating], threshold: float
) -> Matrix:
    """Minimize the weighted Sampson distances over fundamental matrices, from an estimate.

    The matrix is parametrized by its singular value decomposition and keeps rank 2 (Bartoli and
    Sturm 2004).

    Args:
        F: (3, 3) estimate, x1ᵀ·F·x0 = 0.
        points0, points1: (M, 2) (x, y) pixels; matches that are not finite are ignored.
        threshold: px, distance beyond which a match has no weight.

    Returns:
        (3, 3) F of rank 2 and norm 1. The given `F` itself if fewer than twelve matches lie within
        the threshold, or if the result fits worse.
    """
    points0, points1 = _finite(points0, points1)
    if len(points0) < _MIN_MATCHES:
        return F
    T0, T1 = hartley_normalization(points0), hartley_normalization(points1)
    scale = math.sqrt(T0[0, 0] * T1[0, 0])  # the same for both images keeps distances comparable
    T0[:2] *= scale / T0[0, 0]
    T1[:2] *= scale / T1[0, 0]
    normalized0, normalized1 = (homogeneous(p) @ T.T for p, T in ((points0, T0), (points1, T1)))

    # A model is (3, 7): U, V, and a column with the ratio of the singular values.
    def compose(model: Matrix) -> Matrix:
        return np.asarray(model[:, :3] * (1, model[0, 6], 0) @ model[:, 3:6].T)

    def update(model: Matrix, step: Matrix) -> Matrix:
        values = np.array([model[0, 6] + step[6], 0, 0])
        U, V = _rotation(step[:3]) @ model[:, :3], _rotation(step[3:6]) @ model[:, 3:6]
        return np.column_stack((U, V, values))

    def linearize(model: Matrix) -> Linearization:
        F = compose(model)
        by_ratio = np.outer(model[:, 1], model[:, 4])[None]
        derivatives = np.concatenate((_GENERATORS @ F, -F @ _GENERATORS, by_ratio))
        return _sampson(normalized0, normalized1, F, derivatives)

    U, values, Vt = np.linalg.svd(np.linalg.inv(T1).T @ F @ np.linalg.inv(T0))
    ratio = np.array([values[1] / values[0], 0, 0])
    initial = np.column_stack((U, Vt.T, ratio))
    model = _compiled(normalized0, normalized1, initial, threshold * scale, scale)
    if model is None:
        model = _gauss_newton(initial, linearize, update, threshold, scale)
    if model is initial:
        return F
    optimized = T1.T @ compose(model) @ T0
    return np.asarray(optimized / np.linalg.norm(optimized))


def _compiled(
    points0: Matrix, points1: Matrix, initial: Matrix, threshold: float, pixel: float
) -> Matrix | None:
    """`_gauss_newton` of a fundamental matrix in C; None if NumPy must do it."""
    given = np.concatenate((initial[:, :3], initial[:, 3:6]), axis=None)
    given = np.append(given, initial[0, 6])
    found = kernels.optimize_fundamental(
        points0[:, :2],
        points1[:, :2],
        given,
        threshold,
        _MIN_MEDIAN * pixel,
        _SCALE_FACTOR,
        _MIN_MATCHES,
        _MAX_ITERATIONS,
        _MIN_STEP,
    )
    if found is None:
        return None
    if found is given:
        return initial
    ratio = np.array([found[18], 0, 0])
    return np.column_stack((found[:9].reshape(3, 3), found[9:18].reshape(3, 3), ratio))


def optimize_pose(
    R: Matrix, t: Matrix, rays0: Matrix, rays1: Matrix, threshold: float, focal: float
) -> tuple[Matrix, Matrix]:
    """Minimize the weighted Sampson distances over relative poses, starting from an estimate.

    Args:
        R: (3, 3) estimated rotation from camera 0 to camera 1.
        t: (3,) estimated direction of translation.
        rays0, rays1: (M, 2) matched rays; matches that are not finite are ignored.
        threshold: px, distance beyond which a match has no weight.
        focal: px, focal length that relates rays to pixels.

    Returns:
        R (3, 3) and t (3,) of length 1. The given `R` and `t` themselves if fewer than twelve
        matches lie within the threshold, or if the result fits worse.
    """
    normalized0, normalized1 = (homogeneous(rays) for rays in _finite(rays0, rays1))

    # A model is (3, 4): R and t.
    def linearize(pose: Matrix) -> Linearization:
        R, cross = pose[:, :3], cross_matrix(pose[:, 3])
        tangents = np.stack([cross_matrix(tangent) for tangent in _tangents(pose[:, 3])])
        derivatives = np.concatenate((cross @ _GENERATORS @ R, tangents @ R))
        return _sampson(normalized0, normalized1, cross @ R, derivatives)

    initial = np.column_stack((R, t / np.linalg.norm(t)))
    pose = _gauss_newton(initial, linearize, _update_pose, threshold, 1 / focal)
    return (R, t) if pose is initial else (pose[:, :3], pose[:, 3])


def _gauss_newton(
    initial: Matrix,
    linearize: Callable[[Matrix], Linearization],
    update: Callable[[Matrix, Matrix], Matrix],
    threshold: float,
    pixel: float,
) -> Matrix:
    """Iteratively re-weighted Gauss–Newton; returns `initial` itself without an improvement.

    Args:
        initial: model to start from.
        linearize: residuals (K, M) of a model and their derivatives (K, M, U).
        update: the model after a step (U,).
        threshold: px, residual beyond which a match has no weight.
        pixel: length of a pixel in the unit of the residuals.
    """
    model, scale = initial, 0.0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # points at infinity
        for _ in range(_MAX_ITERATIONS):
            residuals, derivatives = linearize(model)
            squares = np.square(residuals).sum(0)
            used = np.flatnonzero(squares < (threshold * pixel) ** 2)
            if len(used) < _MIN_MATCHES:
                return initial
            squares = squares[used]
            scale = _SCALE_FACTOR * max(math.sqrt(np.median(squares)), _MIN_MEDIAN * pixel)
            root_weights = 1 / (1 + squares / scale**2)
            weighted = (derivatives[:, used] * root_weights[:, None]).reshape(
                -1, derivatives.shape[-1]
            )
            gradient = weighted.T @ (residuals[:, used] * root_weights).reshape(-1)
            step = -np.linalg.lstsq(weighted.T @ weighted, gradient, rcond=None)[0]
            model = update(model, step)
            if np.abs(step).max() < _MIN_STEP:
                break
        fits = [
            np.nansum(scale**2 / (np.square(linearize(one)[0]).sum(0) + scale**2))
            for one in (initial, model)
        ]
    return model if fits[1] >= fits[0] else initial


def _sampson(points0: Matrix, points1: Matrix, F: Matrix, derivatives: Matrix) -> Linearization:
    """Signed Sampson distances (1, M) and their derivatives (1, M, U).

    Args:
        points0, points1: (M, 3) homogeneous points.
        F: (3, 3) model.
        derivatives: (U, 3, 3) of F by the unknowns.
    """
    models = np.concatenate((F[None], derivatives))
    lines1, lines0 = points0 @ models.transpose(0, 2, 1), points1 @ models
    product, *products = (points1 * lines1).sum(2)
    normals1, normals0 = lines1[..., :2], lines0[..., :2]
    squares = (normals1[0] * normals1).sum(2) + (normals0[0] * normals0).sum(2)
    square = np.maximum(squares[0], 1e-24)
    distance = product / np.sqrt(square)
    by_unknowns = np.stack(products) / np.sqrt(square) - distance * squares[1:] / square
    return distance[None], by_unknowns.T[None]


def _update_pose(pose: Matrix, step: Matrix) -> Matrix:
    """The pose (3, 4) after a small rotation and a step of t on the unit sphere."""
    t = pose[:, 3] + step[3:] @ _tangents(pose[:, 3])
    return np.column_stack((_rotation(step[:3]) @ pose[:, :3], t / np.linalg.norm(t)))


def _tangents(t: Matrix) -> Matrix:
    """Two orthogonal unit vectors (2, 3) that are orthogonal to t."""
    cross = cross_matrix(t)
    first = cross[:, np.abs(t).argmin()]
    first = first / np.linalg.norm(first)
    return np.stack((first, cross @ first))


def _rotation(vector: Matrix) -> Matrix:
    """Rotation matrix (3, 3) of a rotation vector (3,) in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    K = cross_matrix(vector / max(angle, 1e-300))
    return np.asarray(np.eye(3) + math.sin(angle) * K + (1 - math.cos(angle)) * (K @ K))


def _finite(points0: NDArray[np.floating], points1: NDArray[np.floating]) -> tuple[Matrix, Matrix]:
    """The matches whose points are finite in both images."""
    both = np.column_stack((points0, points1)).astype(np.float64)
    both = both[np.isfinite(both).all(1)]
    return both[:, :2], both[:, 2:]


_GENERATORS = np.stack([cross_matrix(axis) for axis in np.eye(3)])  # of rotations

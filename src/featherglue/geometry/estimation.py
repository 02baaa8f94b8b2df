"""Homographies and relative poses from matches, and their errors.

Robust estimation is OpenCV's; the result is optimized over all inliers (`local_optimization`),
unless a protocol wants it as it is. The same matches and seed give the same result.
Points are (M, 2) xy pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import EstimationError, UsageError
from featherglue.geometry.local_optimization import (
    essential,
    normalization,
    optimize_fundamental,
    optimize_homography,
    optimize_pose,
    sampson_distances,
)

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Method = Literal["magsac", "ransac"]
_MAXIMUM_SEED = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class RelativePose:
    """From camera 0 to camera 1.

    Attributes:
        R: (3, 3) rotation. t: (3,) direction of the translation, length 1.
        inliers: (M,) bool.
    """

    R: Matrix
    t: Matrix
    inliers: Mask


def estimate_homography(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    *,
    threshold: float = 3.0,
    method: Method = "magsac",
    iterations: int = 3000,
    confidence: float = 0.9999,
    seed: int = 0,
    local_optimization: bool = True,
) -> tuple[Matrix, Mask]:
    """H_0to1 with H[2, 2] = 1, and its inliers (M,).

    Args:
        threshold: px, largest distance of an inlier in image 1.
        method: "magsac" (Barath et al. 2020, MAGSAC++) or "ransac".
        seed: of "magsac"; OpenCV's "ransac" always draws the same samples.
        local_optimization: optimize by least squares over all inliers; left as found
            where fewer than twelve do, or where that fits worse.

    Raises:
        EstimationError: fewer than four matches, or none that fits.
    """
    _check(points0, points1, 4, "a homography")
    _check_method(method)
    if method == "magsac":
        found, mask = cv2.findHomography(
            _points(points0), _points(points1), _usac(threshold, iterations, confidence, seed)
        )
    else:
        found, mask = cv2.findHomography(
            _points(points0),
            _points(points1),
            cv2.RANSAC,
            threshold,
            maxIters=iterations,
            confidence=confidence,
        )
    if found is None or abs(found[2, 2]) < 1e-12 or not np.isfinite(found).all():
        raise EstimationError("no homography fits these matches")
    H: Matrix = np.asarray(found / found[2, 2], np.float64)
    inliers: Mask = mask.reshape(-1) > 0
    if not local_optimization:
        return H, inliers
    optimized = optimize_homography(H, points0, points1, threshold)
    if optimized is H:
        return H, inliers
    gaps = cv2.perspectiveTransform(_points(points0)[None], optimized)[0] - _points(points1)
    return optimized, np.asarray(np.square(gaps).sum(1) < threshold**2)


def estimate_fundamental(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    *,
    threshold: float = 2.0,
    iterations: int = 3000,
    confidence: float = 0.9999,
    seed: int = 0,
    local_optimization: bool = True,
) -> tuple[Matrix, Mask]:
    """Fundamental matrix F (3, 3) of norm 1, x1ᵀ·F·x0 = 0, by MAGSAC++, and its inliers (M,).

    Args:
        threshold: px, largest (Sampson) distance of an inlier.
        local_optimization: as for `estimate_homography`.

    Raises:
        EstimationError: fewer than eight matches, or none that fits.
    """
    _check(points0, points1, 8, "a fundamental matrix")
    found, mask = cv2.findFundamentalMat(
        _points(points0), _points(points1), _usac(threshold, iterations, confidence, seed)
    )
    if found is None or found.shape != (3, 3) or mask is None:
        raise EstimationError("no fundamental matrix fits these matches")
    F: Matrix = np.asarray(found / np.linalg.norm(found), np.float64)
    inliers: Mask = mask.reshape(-1) > 0
    if not local_optimization:
        return F, inliers
    optimized = optimize_fundamental(F, points0, points1, threshold)
    if optimized is F:
        return F, inliers
    return optimized, sampson_distances(optimized, _points(points0), _points(points1)) < threshold


def estimate_relative_pose(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    K0: Matrix,
    K1: Matrix,
    *,
    threshold: float = 1.0,
    method: Method = "ransac",
    confidence: float = 0.99999,
    seed: int = 0,
    local_optimization: bool = True,
) -> RelativePose:
    """Relative pose through the essential matrix; without `local_optimization` as in
    SuperGlue's evaluation.

    Args:
        K0, K1: (3, 3) intrinsics, for pixel centres at whole numbers.
        threshold: px, largest (Sampson) distance of an inlier; divided by the mean focal length.
        local_optimization: as for `estimate_homography`.

    Returns:
        the pose; where the camera only turned, no point has a depth and t is arbitrary.

    Raises:
        EstimationError: fewer than five matches, or none that fits.
        UsageError: a singular K.
    """
    _check(points0, points1, 5, "a relative pose")
    normalized0, normalized1 = normalize_points(points0, K0), normalize_points(points1, K1)
    focal = _focal(K0, K1)
    _check_method(method)
    if method == "magsac":
        usac = _usac(threshold / focal, 10_000, confidence, seed)
        identity = np.eye(3)
        E, mask = cv2.findEssentialMat(
            normalized0, normalized1, identity, identity, None, None, usac
        )
    else:
        E, mask = cv2.findEssentialMat(
            normalized0,
            normalized1,
            np.eye(3),
            method=cv2.RANSAC,
            prob=confidence,
            threshold=threshold / focal,
        )
    if E is None or E.shape[0] < 3 or mask is None:
        raise EstimationError("no relative pose fits these matches")
    best: tuple[int, RelativePose] | None = None
    for candidate in np.split(E, len(E) // 3):
        found = _recovered(candidate, normalized0, normalized1, mask.reshape(-1) > 0)
        if best is None or found[0] > best[0]:
            best = found
    if best is None or best[0] == 0:
        pose = _pure_rotation(E[:3], normalized0, normalized1, mask.reshape(-1) > 0)
    else:
        pose = best[1]
    if not local_optimization:
        return pose
    return optimize_relative_pose(pose, points0, points1, K0, K1, threshold=threshold)


def optimize_relative_pose(
    pose: RelativePose,
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    K0: Matrix,
    K1: Matrix,
    *,
    threshold: float = 1.0,
) -> RelativePose:
    """What `local_optimization` of `estimate_relative_pose` makes of a pose of these matches.

    Returns:
        the pose itself where fewer than twelve agree, where that fits worse, or where no more than
        half of its inliers would be left.
    """
    normalized0, normalized1 = normalize_points(points0, K0), normalize_points(points1, K1)
    focal = _focal(K0, K1)
    R, t = optimize_pose(pose.R, pose.t, normalized0, normalized1, threshold, focal)
    if R is pose.R:
        return pose
    E = essential(np.c_[R, t])
    near = sampson_distances(E, normalized0, normalized1) < threshold / focal
    count, optimized = _recovered(E, normalized0, normalized1, near)
    return optimized if count > np.count_nonzero(pose.inliers) // 2 else pose


def _focal(K0: Matrix, K1: Matrix) -> float:
    return float(np.mean([K0[0, 0], K0[1, 1], K1[0, 0], K1[1, 1]]))


def _recovered(
    E: NDArray[Any], rays0: Matrix, rays1: Matrix, inliers: Mask
) -> tuple[int, RelativePose]:
    """Of the poses in E the one with most inliers before both cameras, and how many they are."""
    mask = inliers.astype(np.uint8)[:, None]
    count, R, t, before = cv2.recoverPose(
        E, rays0, rays1, np.eye(3), distanceThresh=1e9, mask=mask
    )[:4]
    pose = RelativePose(R=np.asarray(R), t=np.asarray(t[:, 0]), inliers=before.reshape(-1) > 0)
    return count, pose


def _pure_rotation(E: NDArray[Any], rays0: Matrix, rays1: Matrix, inliers: Mask) -> RelativePose:
    """Of the two rotations in E the one that turns rays onto each other; t says nothing then."""
    first, second, t = cv2.decomposeEssentialMat(E)

    def gap(R: NDArray[Any]) -> float:
        turned = np.c_[rays0[inliers], np.ones(inliers.sum())] @ R.T
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = np.abs(turned[:, :2] / turned[:, 2:] - rays1[inliers]).sum(1)
        return float(np.median(distance)) if inliers.any() else float("inf")

    R = min((first, second), key=gap)
    return RelativePose(R=np.asarray(R), t=np.asarray(t[:, 0]), inliers=inliers)


def normalize_points(points: NDArray[np.floating], K: Matrix) -> Matrix:
    """Pixels (M, 2) to rays (x/z, y/z) of a camera with intrinsics K."""
    if abs(np.linalg.det(K)) < 1e-12:
        raise UsageError("the intrinsics K are singular")
    rays = np.c_[np.asarray(points, np.float64), np.ones(len(points))] @ np.linalg.inv(K).T
    return np.asarray(rays[:, :2] / rays[:, 2:])


def weighted_homography(
    points0: NDArray[np.floating], points1: NDArray[np.floating], weights: NDArray[np.floating]
) -> Matrix:
    """Direct linear transform over all matches, weighted, on normalised points (Hartley 1997).

    Raises:
        EstimationError: fewer than four matches with a positive weight, or degenerate ones.
    """
    _check(points0, points1, 4, "a homography")
    if np.count_nonzero(np.asarray(weights) > 0) < 4:
        raise EstimationError("a homography needs four matches with a positive weight")
    T0, T1 = normalization(points0), normalization(points1)
    x0, y0 = (np.asarray(points0, np.float64) * T0[0, 0] + T0[:2, 2]).T
    x1, y1 = (np.asarray(points1, np.float64) * T1[0, 0] + T1[:2, 2]).T
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
        raise EstimationError("the matches are degenerate: no homography follows from them")
    return np.asarray(H / H[2, 2])


def corner_error(H: Matrix, truth: Matrix, size: tuple[int, int]) -> float:
    """Mean distance (px) of the four corner pixels of (width, height) under both homographies."""
    width, height = size
    corners = np.array(
        [[0, 0, 1], [width - 1, 0, 1], [0, height - 1, 1], [width - 1, height - 1, 1]]
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = (corners @ M.T for M in (H, truth))
        gap = first[:, :2] / first[:, 2:] - second[:, :2] / second[:, 2:]
    error = float(np.linalg.norm(gap, axis=1).mean())
    return error if np.isfinite(error) else float("inf")


def pose_errors(pose: RelativePose, T_0to1: Matrix) -> tuple[float, float]:
    """Angles in degrees between rotations, and between directions of translation.

    As SuperGlue's evaluation has it, the sign of t is not judged: its angle is at most 90.

    Args:
        T_0to1: (4, 4) or (3, 4) true pose; its translation may have any scale but 0.
    """
    R, t = T_0to1[:3, :3], T_0to1[:3, 3]
    cosine = (np.trace(pose.R.T @ R) - 1) / 2
    rotation = float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    cosine = pose.t @ t / max(float(np.linalg.norm(pose.t) * np.linalg.norm(t)), 1e-12)
    translation = float(np.rad2deg(np.arccos(np.clip(cosine, -1, 1))))
    return rotation, min(translation, 180 - translation)


def _points(points: NDArray[np.floating]) -> Matrix:
    return np.ascontiguousarray(points, np.float64)


def _usac(threshold: float, iterations: int, confidence: float, seed: int) -> cv2.UsacParams:
    params = cv2.UsacParams()
    params.threshold = threshold
    params.maxIterations = iterations
    params.confidence = confidence
    params.randomGeneratorState = seed % _MAXIMUM_SEED
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations = 10
    params.final_polisher = cv2.MAGSAC
    return params


def _check_method(method: str) -> None:
    if method not in ("magsac", "ransac"):
        raise UsageError(f"no method {method!r}; there are 'magsac' and 'ransac'")


def _check(
    points0: NDArray[np.floating], points1: NDArray[np.floating], least: int, what: str
) -> None:
    if points0.shape != points1.shape or points0.ndim != 2 or points0.shape[1] != 2:
        raise UsageError(f"points must be (M, 2) twice, not {points0.shape} and {points1.shape}")
    if len(points0) < least:
        raise EstimationError(f"{what} needs at least {least} matches, there are {len(points0)}")

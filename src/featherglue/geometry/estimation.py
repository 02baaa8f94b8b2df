"""Robust estimation of homographies, fundamental matrices and relative poses from matches.

OpenCV's MAGSAC++ and RANSAC find the model. `local_optimization` then refines it by least squares
over its inliers. The same matches and seed give the same result.
"""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.errors import EstimationError, UsageError
from featherglue.geometry.arguments import (
    check_sampling,
    check_threshold,
    intrinsics,
    matched_points,
)
from featherglue.geometry.epipolar import (
    essential_matrix,
    mean_focal_length,
    normalize_points,
    sampson_distances,
)
from featherglue.geometry.estimates import FundamentalMatrix, Homography, RelativePose
from featherglue.geometry.local_optimization import (
    optimize_fundamental,
    optimize_homography,
    optimize_pose,
)

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Method = Literal["magsac", "ransac"]
_MAX_SEED = 2**31 - 1
_POSE_ITERATIONS = 10_000


def estimate_homography(
    points0: ArrayLike,
    points1: ArrayLike,
    *,
    threshold: float = 3.0,
    method: Method = "magsac",
    iterations: int = 3000,
    confidence: float = 0.9999,
    seed: int = 0,
    local_optimization: bool = True,
) -> Homography:
    """Estimate the homography from image 0 to image 1.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum distance of an inlier in image 1.
        method: "magsac" (MAGSAC++, Barath et al. 2020) or "ransac".
        iterations: maximum number of samples.
        confidence: probability of finding the model, in (0, 1), at which sampling stops.
        seed: of the samples of "magsac"; "ransac" always draws the same samples.
        local_optimization: refine by least squares over all inliers. The estimate stays as found
            with fewer than twelve inliers, or if the refined one fits worse.

    Raises:
        EstimationError: fewer than four matches, or no homography fits them.
        UsageError: an argument has another shape, is out of range or not finite.
    """
    points0, points1 = matched_points(points0, points1, 4, "a homography")
    check_threshold(threshold)
    check_sampling(iterations, confidence)
    _check_method(method)
    if method == "magsac":
        usac = _magsac_parameters(threshold, iterations, confidence, seed)
        found, mask = cv2.findHomography(points0, points1, usac)
    else:
        found, mask = cv2.findHomography(
            points0,
            points1,
            cv2.RANSAC,
            threshold,
            maxIters=iterations,
            confidence=confidence,
        )
    if found is None or abs(found[2, 2]) < 1e-12 or not np.isfinite(found).all():
        raise EstimationError("no homography fits these matches")
    H: Matrix = np.asarray(found / found[2, 2], np.float64)
    inliers = _inliers(mask, "homography")
    if not local_optimization:
        return Homography(model=H, inliers=inliers)
    optimized = optimize_homography(H, points0, points1, threshold)
    if optimized is not H:
        offsets = cv2.perspectiveTransform(points0[None], optimized)[0] - points1
        inliers = np.asarray(np.square(offsets).sum(1) < threshold**2)
    return Homography(model=optimized, inliers=inliers)


def estimate_fundamental(
    points0: ArrayLike,
    points1: ArrayLike,
    *,
    threshold: float = 2.0,
    iterations: int = 3000,
    confidence: float = 0.9999,
    seed: int = 0,
    local_optimization: bool = True,
) -> FundamentalMatrix:
    """Estimate the fundamental matrix by MAGSAC++ (Barath et al. 2020).

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum Sampson distance of an inlier.
        iterations, confidence, seed, local_optimization: as for `estimate_homography`.

    Raises:
        EstimationError: fewer than eight matches, or no fundamental matrix fits them.
        UsageError: an argument has another shape, is out of range or not finite.
    """
    points0, points1 = matched_points(points0, points1, 8, "a fundamental matrix")
    check_threshold(threshold)
    check_sampling(iterations, confidence)
    usac = _magsac_parameters(threshold, iterations, confidence, seed)
    found, mask = cv2.findFundamentalMat(points0, points1, usac)
    if found is None or found.shape != (3, 3) or mask is None:
        raise EstimationError("no fundamental matrix fits these matches")
    F: Matrix = np.asarray(found / np.linalg.norm(found), np.float64)
    inliers = _inliers(mask, "fundamental matrix")
    if not local_optimization:
        return FundamentalMatrix(model=F, inliers=inliers)
    optimized = optimize_fundamental(F, points0, points1, threshold)
    if optimized is not F:
        inliers = sampson_distances(optimized, points0, points1) < threshold
    return FundamentalMatrix(model=optimized, inliers=inliers)


def estimate_relative_pose(
    points0: ArrayLike,
    points1: ArrayLike,
    K0: ArrayLike,
    K1: ArrayLike,
    *,
    threshold: float = 1.0,
    method: Method = "ransac",
    confidence: float = 0.99999,
    seed: int = 0,
    local_optimization: bool = True,
) -> RelativePose:
    """Estimate the pose of camera 1 relative to camera 0 through the essential matrix.

    Without local optimization this is the procedure of SuperGlue's evaluation.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        K0, K1: (3, 3) intrinsics in px, with pixel centres at integer coordinates.
        threshold: px, maximum Sampson distance of an inlier; it is divided by the mean focal
            length.
        method, confidence, seed, local_optimization: as for `estimate_homography`.

    Returns:
        The pose. If the camera only rotated, no point has a depth and t is arbitrary.

    Raises:
        EstimationError: fewer than five distinct matches, or no pose fits them.
        UsageError: an argument has another shape, is out of range or not finite, or an intrinsic
            matrix is singular.
    """
    points0, points1 = matched_points(points0, points1, 5, "a relative pose")
    K0, K1 = intrinsics(K0, "K0"), intrinsics(K1, "K1")
    check_threshold(threshold)
    check_sampling(_POSE_ITERATIONS, confidence)
    _check_method(method)
    if len(np.unique(np.column_stack((points0, points1)), axis=0)) < 5:
        raise EstimationError("a relative pose needs at least 5 distinct matches")
    rays0, rays1 = normalize_points(points0, K0), normalize_points(points1, K1)
    focal = mean_focal_length(K0, K1)
    if method == "magsac":
        usac = _magsac_parameters(threshold / focal, _POSE_ITERATIONS, confidence, seed)
        E, mask = cv2.findEssentialMat(rays0, rays1, np.eye(3), np.eye(3), None, None, usac)
    else:
        E, mask = cv2.findEssentialMat(
            rays0,
            rays1,
            np.eye(3),
            method=cv2.RANSAC,
            prob=confidence,
            threshold=threshold / focal,
        )
    if E is None or E.shape[0] < 3 or mask is None:
        raise EstimationError("no relative pose fits these matches")
    pose = _pose_from_essential(E, rays0, rays1, _inliers(mask, "relative pose"))
    if not local_optimization:
        return pose
    return optimize_relative_pose(pose, points0, points1, K0, K1, threshold=threshold)


def optimize_relative_pose(
    pose: RelativePose,
    points0: ArrayLike,
    points1: ArrayLike,
    K0: ArrayLike,
    K1: ArrayLike,
    *,
    threshold: float = 1.0,
) -> RelativePose:
    """Refine a pose by least squares, as `local_optimization` of `estimate_relative_pose` does.

    Args:
        pose: estimate from these matches.
        points0, points1, K0, K1, threshold: as for `estimate_relative_pose`.

    Returns:
        The refined pose. The given pose itself if fewer than twelve matches lie within the
        threshold, if the result fits worse, or if it has at most half as many inliers.
    """
    points0, points1 = matched_points(points0, points1, 0, "a relative pose")
    K0, K1 = intrinsics(K0, "K0"), intrinsics(K1, "K1")
    check_threshold(threshold)
    rays0, rays1 = normalize_points(points0, K0), normalize_points(points1, K1)
    focal = mean_focal_length(K0, K1)
    R, t = optimize_pose(pose.R, pose.t, rays0, rays1, threshold, focal)
    if R is pose.R:
        return pose
    E = essential_matrix(R, t)
    inliers = sampson_distances(E, rays0, rays1) < threshold / focal
    count, optimized = _recover_pose(E, rays0, rays1, inliers)
    return optimized if count > pose.num_inliers // 2 else pose


def _pose_from_essential(
    E: NDArray[Any], rays0: Matrix, rays1: Matrix, inliers: Mask
) -> RelativePose:
    """The pose with the most inliers in front of both cameras, of all candidates E (3·N, 3)."""
    candidates = [
        _recover_pose(candidate, rays0, rays1, inliers) for candidate in np.split(E, len(E) // 3)
    ]
    count, pose = max(candidates, key=lambda candidate: candidate[0])
    return pose if count else _pure_rotation(E[:3], rays0, rays1, inliers)


def _recover_pose(
    E: NDArray[Any], rays0: Matrix, rays1: Matrix, inliers: Mask
) -> tuple[int, RelativePose]:
    """The pose of E with the most inliers in front of both cameras, and their number."""
    mask = inliers.astype(np.uint8)[:, None]
    count, R, t, in_front = cv2.recoverPose(
        E, rays0, rays1, np.eye(3), distanceThresh=1e9, mask=mask
    )[:4]
    pose = RelativePose(R=np.asarray(R), t=np.asarray(t[:, 0]), inliers=in_front.reshape(-1) > 0)
    return count, pose


def _pure_rotation(E: NDArray[Any], rays0: Matrix, rays1: Matrix, inliers: Mask) -> RelativePose:
    """The rotation of E that maps rays onto each other; t is arbitrary."""
    first, second, t = cv2.decomposeEssentialMat(E)

    def distance(R: NDArray[Any]) -> float:
        rotated = np.c_[rays0[inliers], np.ones(inliers.sum())] @ R.T
        with np.errstate(divide="ignore", invalid="ignore"):
            offsets = np.abs(rotated[:, :2] / rotated[:, 2:] - rays1[inliers]).sum(1)
        return float(np.median(offsets))

    R = min((first, second), key=distance)
    return RelativePose(R=np.asarray(R), t=np.asarray(t[:, 0]), inliers=inliers)


def _inliers(mask: NDArray[Any], model: str) -> Mask:
    inliers: Mask = mask.reshape(-1) > 0
    if not inliers.any():
        raise EstimationError(f"no {model} fits these matches")
    return inliers


def _magsac_parameters(
    threshold: float, iterations: int, confidence: float, seed: int
) -> cv2.UsacParams:
    params = cv2.UsacParams()
    params.threshold = threshold
    params.maxIterations = iterations
    params.confidence = confidence
    params.randomGeneratorState = seed % _MAX_SEED
    params.sampler = cv2.SAMPLING_UNIFORM
    params.score = cv2.SCORE_METHOD_MAGSAC
    params.loMethod = cv2.LOCAL_OPTIM_SIGMA
    params.loIterations = 10
    params.final_polisher = cv2.MAGSAC
    return params


def _check_method(method: str) -> None:
    if method not in ("magsac", "ransac"):
        raise UsageError(f"method must be 'magsac' or 'ransac', not {method!r}")

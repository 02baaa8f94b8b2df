"""Robust estimation of homographies, fundamental matrices and relative poses from matches.

OpenCV's MAGSAC++ and RANSAC find the model. `local_optimization` then refines it by least squares
over its inliers. `significance` rejects it if random matches give as many inliers. The same matches
and seed give the same result.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.errors import EstimationError, ResourceError, UsageError
from featherglue.geometry.arguments import (
    check_estimation,
    check_threshold,
    intrinsics,
    matched_points,
)
from featherglue.geometry.blas_buffer import take_blas_buffer
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
from featherglue.geometry.significance import (
    FUNDAMENTAL,
    MAX_FALSE_ALARMS,
    POSE,
    check_epipolar_support,
    check_homography_support,
)
from featherglue.machine import exhausted_resource

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Method = Literal["magsac", "ransac"]
_MAX_SEED = 2**31 - 1
_POSE_ITERATIONS = 10_000
_ATTEMPTS = 4


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
    size1: tuple[int, int] | None = None,
    max_false_alarms: float | None = MAX_FALSE_ALARMS,
) -> Homography:
    """Estimate the homography from image 0 to image 1.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum distance of an inlier in image 1.
        method: "magsac" (MAGSAC++, Barath et al. 2020) or "ransac".
        iterations: maximum number of samples.
        confidence: probability of finding the model, in (0, 1), at which sampling stops.
        seed: seed of the samples of "magsac"; "ransac" always draws the same samples.
        local_optimization: refine by least squares over all inliers. The estimate stays as found
            with fewer than twelve inliers, or if the refined one fits worse.
        size1: (width, height) of image 1, from which the probability of a random inlier follows;
            None for the bounding box of `points1`.
        max_false_alarms: maximum expected number of models with as many inliers among as many
            random matches (Moisan and Stival 2004); None accepts every estimate. Four matches
            never have the support that the test asks for.

    Raises:
        EstimationError: fewer than four matches, no homography fits them, or it has no more
            inliers than chance gives.
        UsageError: an argument has another shape, is out of range or not finite.
    """
    points0, points1 = matched_points(points0, points1, 4, "a homography")
    check_estimation(threshold, iterations, confidence, seed, size1, max_false_alarms)
    _check_method(method)
    with _failures("homography"):
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
    optimized = H
    if local_optimization:
        with _failures("homography"):
            optimized = optimize_homography(H, points0, points1, threshold)
    if optimized is not H:
        offsets = cv2.perspectiveTransform(points0[None], optimized)[0] - points1
        inliers = np.asarray(np.square(offsets).sum(1) < threshold**2)
    estimate = Homography(model=optimized, inliers=inliers)
    check_homography_support(
        optimized,
        points0,
        points1,
        estimate.num_inliers,
        threshold=threshold,
        size1=size1,
        max_false_alarms=max_false_alarms,
    )
    return estimate


def estimate_fundamental(
    points0: ArrayLike,
    points1: ArrayLike,
    *,
    threshold: float = 2.0,
    iterations: int = 3000,
    confidence: float = 0.9999,
    seed: int = 0,
    local_optimization: bool = True,
    size1: tuple[int, int] | None = None,
    max_false_alarms: float | None = MAX_FALSE_ALARMS,
) -> FundamentalMatrix:
    """Estimate the fundamental matrix by MAGSAC++ (Barath et al. 2020).

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum Sampson distance of an inlier.
        iterations, confidence, seed, local_optimization, size1, max_false_alarms: as for
            `estimate_homography`.

    Raises:
        EstimationError: fewer than eight matches, no fundamental matrix fits them, or it has no
            more inliers than chance gives.
        UsageError: an argument has another shape, is out of range or not finite.
    """
    points0, points1 = matched_points(points0, points1, 8, "a fundamental matrix")
    check_estimation(threshold, iterations, confidence, seed, size1, max_false_alarms)
    with _failures("fundamental matrix"):
        found, mask = _sampled_fundamental(
            points0, points1, threshold, iterations, confidence, seed
        )
    if found is None or found.shape != (3, 3) or mask is None or not np.isfinite(found).all():
        raise EstimationError("no fundamental matrix fits these matches")
    F: Matrix = np.asarray(found / np.linalg.norm(found), np.float64)
    inliers = _inliers(mask, "fundamental matrix")
    optimized = F
    if local_optimization:
        with _failures("fundamental matrix"):
            optimized = optimize_fundamental(F, points0, points1, threshold)
    if optimized is not F:
        inliers = sampson_distances(optimized, points0, points1) < threshold
    estimate = FundamentalMatrix(model=optimized, inliers=inliers)
    check_epipolar_support(
        optimized,
        points0,
        points1,
        estimate.num_inliers,
        FUNDAMENTAL,
        threshold=threshold,
        size1=size1,
        max_false_alarms=max_false_alarms,
    )
    return estimate


def _sampled_fundamental(
    points0: Matrix,
    points1: Matrix,
    threshold: float,
    iterations: int,
    confidence: float,
    seed: int,
) -> tuple[Any, Any]:
    """The fundamental matrix by MAGSAC++, or None, and its mask of inliers.

    The last step of OpenCV's MAGSAC++ fails on some samples of planar matches; others succeed.
    """
    for attempt in range(_ATTEMPTS):
        usac = _magsac_parameters(threshold, iterations, confidence, seed + attempt)
        try:
            return cv2.findFundamentalMat(points0, points1, usac)
        except cv2.error:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


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
    size1: tuple[int, int] | None = None,
    max_false_alarms: float | None = MAX_FALSE_ALARMS,
) -> RelativePose:
    """Estimate the pose of camera 1 relative to camera 0 through the essential matrix.

    Without local optimization this is the procedure of SuperGlue's evaluation.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        K0, K1: (3, 3) intrinsics in px, with pixel centers at integer coordinates.
        threshold: px, maximum Sampson distance of an inlier; it is divided by the mean focal
            length.
        method, confidence, seed, local_optimization, size1, max_false_alarms: as for
            `estimate_homography`.

    Returns:
        The pose. If the camera only rotated, no point has a depth and t is arbitrary.

    Raises:
        EstimationError: fewer than five distinct matches, no pose fits them, or it has no more
            inliers than chance gives.
        UsageError: an argument has another shape, is out of range or not finite, or an intrinsic
            matrix is singular.
    """
    points0, points1 = matched_points(points0, points1, 5, "a relative pose")
    K0, K1 = intrinsics(K0, "K0"), intrinsics(K1, "K1")
    check_estimation(threshold, _POSE_ITERATIONS, confidence, seed, size1, max_false_alarms)
    _check_method(method)
    if len(np.unique(np.column_stack((points0, points1)), axis=0)) < 5:
        raise EstimationError("a relative pose needs at least 5 distinct matches")
    rays0, rays1 = normalize_points(points0, K0), normalize_points(points1, K1)
    with _failures("relative pose"):
        pose = _sampled_pose(
            rays0, rays1, threshold / mean_focal_length(K0, K1), method, confidence, seed
        )
        if local_optimization:
            pose = optimize_relative_pose(pose, points0, points1, K0, K1, threshold=threshold)
    check_epipolar_support(
        np.linalg.inv(K1).T @ pose.model @ np.linalg.inv(K0),
        points0,
        points1,
        pose.num_inliers,
        POSE,
        threshold=threshold,
        size1=size1,
        max_false_alarms=max_false_alarms,
    )
    return pose


def _sampled_pose(
    rays0: Matrix,
    rays1: Matrix,
    threshold: float,
    method: Method,
    confidence: float,
    seed: int,
) -> RelativePose:
    """The pose by random sampling; the threshold is a distance between rays."""
    if method == "magsac":
        usac = _magsac_parameters(threshold, _POSE_ITERATIONS, confidence, seed)
        E, mask = cv2.findEssentialMat(rays0, rays1, np.eye(3), np.eye(3), None, None, usac)
    else:
        E, mask = cv2.findEssentialMat(
            rays0, rays1, np.eye(3), method=cv2.RANSAC, prob=confidence, threshold=threshold
        )
    if E is None or E.shape[0] < 3 or mask is None:
        raise EstimationError("no relative pose fits these matches")
    return _pose_from_essential(E, rays0, rays1, _inliers(mask, "relative pose"))


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


@contextmanager
def _failures(model: str) -> Iterator[None]:
    """Turn failures of the numerics on degenerate matches into EstimationError."""
    take_blas_buffer()
    try:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            yield
    except (cv2.error, np.linalg.LinAlgError, ZeroDivisionError) as error:
        if lack := exhausted_resource(error):
            raise ResourceError(f"{lack}, to estimate geometry") from None
        raise EstimationError(f"no {model} fits these matches ({error})") from None


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

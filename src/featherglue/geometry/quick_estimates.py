"""Quick robust estimates of a geometry, to decide about matches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ResourceError
from featherglue.geometry.blas_buffer import take_blas_buffer
from featherglue.machine import exhausted_resource

Float = NDArray[np.float32]
Estimate = tuple[NDArray[np.float64], NDArray[np.bool_]]  # model (3, 3), inliers (M,)

_MIN_MATCHES = 8
_CONFIDENCE = 0.999


def quick_fundamental(
    points0: Float,
    points1: Float,
    threshold: float,
    iterations: int = 5000,
    method: int = cv2.USAC_MAGSAC,
) -> Estimate | None:
    """A fundamental matrix that many matches agree with, without refinement or test of chance.

    `estimate_fundamental` is more accurate, and takes several times as long. The same matches give
    the same result.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum distance of an inlier from its epipolar line.
        iterations: maximum number of samples.
        method: OpenCV's number of a robust method; MAGSAC++ by default.

    Returns:
        F (3, 3), and a mask (M,) of the inliers. None for fewer than eight matches, or if no
        matrix fits them.

    Raises:
        ResourceError: the machine lacks memory or another resource.
    """
    if len(points0) < _MIN_MATCHES:
        return None
    return _estimate(
        lambda: cv2.findFundamentalMat(points0, points1, method, threshold, _CONFIDENCE, iterations)
    )


def quick_homography(points0: Float, points1: Float, threshold: float) -> Estimate | None:
    """A homography that many matches agree with, by MAGSAC++, without refinement or test of chance.

    `estimate_homography` is more accurate, and takes several times as long. The same matches give
    the same result.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum distance of an inlier from its predicted point in image 1.

    Returns:
        H (3, 3), and a mask (M,) of the inliers. None for fewer than four matches, or if no
        homography fits them.

    Raises:
        ResourceError: the machine lacks memory or another resource.
    """
    if len(points0) < 4:
        return None
    return _estimate(lambda: cv2.findHomography(points0, points1, cv2.USAC_MAGSAC, threshold))


def _estimate(find: Callable[[], tuple[Any, Any]]) -> Estimate | None:
    """A model and the mask of its inliers by OpenCV; None if it finds none."""
    take_blas_buffer()
    try:
        model, mask = find()
    except cv2.error as error:  # OpenCV fails on some degenerate matches
        if lack := exhausted_resource(error):
            raise ResourceError(f"{lack}, to estimate geometry") from None
        return None
    if model is None or mask is None or model.shape != (3, 3) or not np.isfinite(model).all():
        return None
    return np.asarray(model, np.float64), mask[:, 0] > 0


def count_epipolar_inliers(
    points0: Float, points1: Float, threshold: float, iterations: int
) -> int:
    """Number of matches that agree with one fundamental matrix, by GC-RANSAC.

    Barath and Matas, Graph-Cut RANSAC, CVPR 2018. See `quick_fundamental` for the arguments.

    Returns:
        The number of inliers; 0 for fewer than eight matches.

    Raises:
        ResourceError: the machine lacks memory or another resource.
    """
    found = quick_fundamental(points0, points1, threshold, iterations, cv2.USAC_ACCURATE)
    return 0 if found is None else int(np.count_nonzero(found[1]))

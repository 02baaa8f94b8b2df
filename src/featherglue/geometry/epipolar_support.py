"""How many matches agree with one epipolar geometry, as a quick test of an image pair."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ResourceError
from featherglue.geometry.blas_buffer import take_blas_buffer
from featherglue.machine import exhausted_resource

_MIN_MATCHES = 8
_CONFIDENCE = 0.999


def count_epipolar_inliers(
    points0: NDArray[np.float32], points1: NDArray[np.float32], threshold: float, iterations: int
) -> int:
    """Number of matches that agree with one fundamental matrix.

    It is found by OpenCV's GC-RANSAC (Barath and Matas 2018). `estimate_fundamental` is more
    accurate, and takes several times as long. The same matches give the same number.

    Args:
        points0, points1: (M, 2) matched (x, y) pixels.
        threshold: px, maximum distance of an inlier from its epipolar line.
        iterations: maximum number of samples.

    Returns:
        The number of inliers; 0 for fewer than eight matches.
    """
    if len(points0) < _MIN_MATCHES:
        return 0
    take_blas_buffer()
    try:
        _, mask = cv2.findFundamentalMat(
            points0, points1, cv2.USAC_ACCURATE, threshold, _CONFIDENCE, iterations
        )
    except cv2.error as error:
        if lack := exhausted_resource(error):
            raise ResourceError(f"{lack}, to estimate geometry") from None
        return 0  # degenerate matches
    return 0 if mask is None else int(np.count_nonzero(mask))

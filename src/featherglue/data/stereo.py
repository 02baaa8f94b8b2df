"""Depth of a photograph from a second one: rectification and semi-global matching.

Rectification: Fusiello, Trucco, Verri: A compact algorithm for rectification of stereo pairs,
Machine Vision and Applications 2000. Matching: Hirschmüller: Stereo Processing by Semiglobal
Matching and Mutual Information, PAMI 2008, as in OpenCV.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.depth_maps import Depth
from featherglue.data.posed_photo import Array, PosedPhoto
from featherglue.io.gray import Gray

_MAX_ALONG = 0.8  # cosine of the angle between the baseline and an optical axis
_MAX_SIDE = 2.0  # longest side of a rectified image, relative to that of the photograph
_MIN_SIDE = 48  # pixels of a rectified image
_MAX_DISPARITIES = 320
_MIN_POINTS = 8
_BLOCK = 5  # pixels
_EDGE = 3  # pixels at the edge of a photograph where a block is not complete
_MARGIN = 1.25  # of the nearest and the farthest disparity of the points


@dataclass(frozen=True, kw_only=True, eq=False)
class Rectification:
    """The common image plane of two photographs; the first is the left one.

    Attributes:
        to_rectified: homographies (3, 3) of both photographs, pixels to rectified pixels.
        size: (width, height) of the rectified images.
        R: (3, 3), rotation of the first camera to the rectified one.
        K: (3, 3), intrinsics of the first rectified image.
        baseline: distance of the cameras times the focal length: disparity = baseline / depth +
            offset.
        offset: disparity of points at infinity.
        disparities: lowest disparity, and number of disparities, a multiple of 16.
    """

    to_rectified: tuple[Array, Array]
    size: tuple[int, int]
    R: Array
    K: Array
    baseline: float
    offset: float
    disparities: tuple[int, int]


def rectify(first: PosedPhoto, second: PosedPhoto) -> Rectification | None:
    """The rectification of two photographs.

    Returns:
        None if the cameras move along their optical axes, if the photographs show too few common
        points, or if the range of their disparities is too large.
    """
    rotations = [photo.world_to_camera[:, :3] for photo in (first, second)]
    moved = second.center - first.center
    length = float(np.linalg.norm(moved))
    if length == 0:
        return None
    x_axis = moved / length
    if max(abs(float(R[2] @ x_axis)) for R in rotations) > _MAX_ALONG:
        return None
    forward = rotations[0][2] + rotations[1][2]
    forward = forward - (forward @ x_axis) * x_axis
    if np.linalg.norm(forward) < 0.5:
        return None
    z_axis = forward / np.linalg.norm(forward)
    common = np.stack((x_axis, np.cross(z_axis, x_axis), z_axis))
    focal = float(np.mean([photo.K[i, i] for photo in (first, second) for i in (0, 1)]))
    turned = [common @ R.T for R in rotations]
    maps = [
        np.diag([focal, focal, 1.0]) @ R @ np.linalg.inv(photo.K)
        for R, photo in zip(turned, (first, second), strict=True)
    ]
    boxes = [_bounds(H, photo.size) for H, photo in zip(maps, (first, second), strict=True)]
    if boxes[0] is None or boxes[1] is None:
        return None
    (left0, top0, right0, bottom0), (left1, top1, right1, bottom1) = boxes[0], boxes[1]
    top, bottom = max(top0, top1), min(bottom0, bottom1)
    width, height = int(max(right0 - left0, right1 - left1)) + 1, int(bottom - top) + 1
    if height < _MIN_SIDE or max(width, height) > _MAX_SIDE * max(*first.size, *second.size):
        return None
    offset, baseline = left1 - left0, focal * length
    depths = _common_depths(first, second, z_axis)
    if len(depths) < _MIN_POINTS:
        return None
    near, far = np.percentile(depths, (2, 98))
    low = int(np.floor(baseline / far / _MARGIN + offset)) - 1
    high = int(np.ceil(baseline / near * _MARGIN + offset)) + 1
    count = -(-(high - low) // 16) * 16
    if count > _MAX_DISPARITIES:
        return None
    shifts = [np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1.0]]) for left in (left0, left1)]
    return Rectification(
        to_rectified=(shifts[0] @ maps[0], shifts[1] @ maps[1]),
        size=(width, height),
        R=turned[0],
        K=shifts[0] @ np.diag([focal, focal, 1.0]),
        baseline=baseline,
        offset=offset,
        disparities=(low, count),
    )


def stereo_depth(photo0: Gray, photo1: Gray, rectified: Rectification) -> Depth:
    """The depth of the first photograph by semi-global matching with the second.

    Matches must be unique and agree in both directions (OpenCV's StereoSGBM).

    Args:
        photo0, photo1: (H0, W0) and (H1, W1) uint8.
        rectified: from `rectify`.

    Returns:
        (H0, W0) float32, depth along the optical axis in units of the model; NaN where unknown.
    """
    low, count = rectified.disparities
    # OpenCV finds no disparity of pixels whose search range leaves the other image.
    before, behind = max(0, low + count), max(0, -low)
    images = [
        cv2.copyMakeBorder(
            cv2.warpPerspective(photo, H, rectified.size),
            0,
            0,
            before,
            behind,
            cv2.BORDER_CONSTANT,
        )
        for photo, H in zip((photo0, photo1), rectified.to_rectified, strict=True)
    ]
    matcher = cv2.StereoSGBM.create(
        minDisparity=low,
        numDisparities=count,
        blockSize=_BLOCK,
        P1=8 * _BLOCK**2,
        P2=32 * _BLOCK**2,
        disp12MaxDiff=1,
        uniquenessRatio=10,
        speckleWindowSize=100,
        speckleRange=2,
    )
    found = matcher.compute(*images)[:, before : before + rectified.size[0]]
    disparity = np.where(found < 16 * low, np.nan, found / 16).astype(np.float32)
    disparity[~_shown_by_both(disparity, photo0.shape, photo1.shape, rectified)] = np.nan
    height, width = photo0.shape[:2]
    y, x = np.mgrid[:height, :width]
    pixels = np.stack((x, y, np.ones_like(x)), -1).astype(np.float64)
    at = pixels @ rectified.to_rectified[0].T
    at = at[..., :2] / at[..., 2:]
    sampled = cv2.remap(
        disparity,
        at[..., 0].astype(np.float32),
        at[..., 1].astype(np.float32),
        cv2.INTER_NEAREST,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=float("nan"),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        z = rectified.baseline / (sampled - rectified.offset)
        rays = np.concatenate((at, np.ones_like(at[..., :1])), -1) @ np.linalg.inv(rectified.K).T
        depth = (rays @ rectified.R[:, 2]) * z
        return np.where(depth > 0, depth, np.nan).astype(np.float32)


def _shown_by_both(
    disparity: Depth, shape0: tuple[int, ...], shape1: tuple[int, ...], rectified: Rectification
) -> NDArray[np.bool_]:
    """Where both photographs show a point of a disparity map (H, W), without their edges.

    Semi-global matching continues surfaces beyond what the second photograph shows.
    """
    shown = []
    for shape, H in zip((shape0, shape1), rectified.to_rectified, strict=True):
        white = np.full(shape[:2], 255, np.uint8)
        warped = cv2.warpPerspective(white, H, rectified.size)
        shown.append(cv2.erode(warped, np.ones((2 * _EDGE + 1,) * 2, np.uint8)) == 255)
    y, x = np.nonzero(np.isfinite(disparity))
    there = (x - disparity[y, x]).round().astype(np.int64)
    inside = (there >= 0) & (there < disparity.shape[1])
    both: NDArray[np.bool_] = np.zeros(disparity.shape, np.bool_)
    both[y[inside], x[inside]] = shown[1][y[inside], there[inside]]
    both &= shown[0]
    return both


def _bounds(H: Array, size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """Left, top, right, bottom of the warped corners; None if one is not in front."""
    width, height = size[0] - 1, size[1] - 1
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1.0]]) @ H.T
    if corners[:, 2].min() <= 1e-3 * corners[:, 2].max():
        return None
    xy = corners[:, :2] / corners[:, 2:]
    return (*xy.min(0).tolist(), *xy.max(0).tolist())


def _common_depths(first: PosedPhoto, second: PosedPhoto, axis: Array) -> Array:
    """Depths (M,) along an axis of the common points in front of the first camera."""
    seen = np.isin(first.points, second.points, assume_unique=True)
    depths: Array = (first.positions[seen] - first.center) @ axis
    return depths[depths > 0]

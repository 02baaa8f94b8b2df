"""Pictures of a sparse model: its points and cameras from above and from the side."""

from __future__ import annotations

from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
RGB = NDArray[np.uint8]
_SIZE, _MARGIN = 640, 24  # px
_SPREAD = 98.0  # percentile of the points that the picture shows, around their median
_CAMERA_COLOR, _BACKGROUND = (200, 30, 30), 255
_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates


def draw_model(model: Any, side: Literal["above", "side"]) -> RGB:
    """Draw the points of a model in their colors, and its cameras as red triangles.

    The vertical direction is the mean of those of the images.

    Args:
        model: `pycolmap.Reconstruction` with at least one registered image.
        side: "above" looks down, "side" horizontally.

    Returns:
        (640, 640, 3) uint8 RGB.
    """
    images = [image for image in model.images.values() if image.has_pose]
    centers = np.array([image.projection_center() for image in images])
    rotations = np.array([image.cam_from_world().rotation.matrix() for image in images])
    points = np.array([point.xyz for point in model.points3D.values()]).reshape(-1, 3)
    colors = np.array([point.color for point in model.points3D.values()]).reshape(-1, 3)
    axes = _axes(rotations, points if len(points) else centers)
    plane = axes[[0, 1]] if side == "above" else axes[[0, 2]]
    center, extent = _bounds(np.concatenate([points, centers]), centers)
    scale = (_SIZE / 2 - _MARGIN) / extent

    def place(xyz: Float) -> Float:
        flat = (xyz - center) @ plane.T * scale
        return np.asarray(flat * (1, -1) + _SIZE / 2)

    canvas = np.full((_SIZE, _SIZE, 3), _BACKGROUND, np.uint8)
    pixels = np.rint(place(points)).astype(np.int64)
    inside = ((pixels >= 0) & (pixels < _SIZE)).all(1)
    canvas[pixels[inside, 1], pixels[inside, 0]] = np.minimum(colors[inside], 225)
    length = 0.04 * extent
    for middle, R in zip(centers, rotations, strict=True):
        corners = np.array([(0, 0, 0), (-0.5, 0, 1), (0.5, 0, 1)]) * length
        outline = np.rint(place(middle + corners @ R) * 2**_FRACTION_BITS).astype(np.int32)
        cv2.polylines(canvas, [outline], True, _CAMERA_COLOR, 1, cv2.LINE_AA, _FRACTION_BITS)
    return canvas


def _axes(rotations: Float, points: Float) -> Float:
    """(3, 3): two horizontal axes, the first one along the longer extent, and the upward axis."""
    up = -rotations[:, 1].mean(0)
    up /= max(float(np.linalg.norm(up)), 1e-12)
    if not up.any():  # cameras in opposite directions
        up = np.array([0.0, -1.0, 0.0])
    flat = points - np.median(points, axis=0)
    flat = flat - np.outer(flat @ up, up)
    first = np.linalg.svd(flat.T @ flat)[0][:, 0]
    first = first - (first @ up) * up
    first /= max(float(np.linalg.norm(first)), 1e-12)
    return np.stack([first, np.cross(up, first), up])


def _bounds(shown: Float, centers: Float) -> tuple[Float, float]:
    """Center, and half the extent, of most points and of all cameras."""
    middle = np.median(shown, axis=0)
    distances = np.linalg.norm(shown - middle, axis=1)
    near = shown[distances <= np.percentile(distances, _SPREAD)]
    corners = np.concatenate([near, centers])
    low, high = corners.min(0), corners.max(0)
    return (low + high) / 2, max(float(np.linalg.norm(high - low)) / 2, 1e-9)

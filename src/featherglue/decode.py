"""From the extractor's maps to features, in NumPy and OpenCV, shared by every runtime.

Shape legend: H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, N keypoints, D descriptor
width. Keypoints are (x, y) pixels; the centre of the top-left pixel is (0, 0).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.config import ProcessingConfig, Sampling
from featherglue.image import Grey

Float = NDArray[np.float32]
CELL = 8


def pad_to_cells(image: Grey) -> Grey:
    """Repeat the last row and column until both sides are multiples of 8."""
    height, width = image.shape
    bottom, right = -height % CELL, -width % CELL
    if bottom == 0 and right == 0:
        return image
    return np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE))


def decode_features(
    scores: Float, descriptors: Float, size: tuple[int, int], processing: ProcessingConfig
) -> tuple[Float, Float, Float]:
    """Keypoints, their scores and descriptors, strongest first.

    Args:
        scores: (H, W) in [0, 1], before suppression.
        descriptors: (Hc, Wc, D), not normalised.
        size: (width, height) of the image before it was padded to whole cells.

    Returns:
        keypoints (N, 2) xy, scores (N,) in [0, 1], descriptors (N, D), L2-normalised.
    """
    x, y = find_keypoints(scores, size, processing)
    keypoints = np.stack((x, y), 1).astype(np.float32)
    if processing.subpixel:
        keypoints += subpixel_offsets(scores, x, y)
    sampled = sample_descriptors(descriptors, keypoints, processing.descriptor_sampling)
    return keypoints, scores[y, x], sampled


def find_keypoints(
    scores: Float, size: tuple[int, int], processing: ProcessingConfig
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Columns and rows of the strongest maxima of a score map (H, W), strongest first.

    Suppression as published (see `suppress`), then the threshold, the borders of the image of
    `size` (width, height), and the `max_keypoints` strongest.
    """
    border = processing.remove_borders
    width, height = size
    maxima = suppress(scores, processing.nms_radius, processing.keypoint_threshold)
    bottom, right = max(border, height - border), max(border, width - border)
    y, x = np.nonzero(maxima[border:bottom, border:right])
    y, x = y + border, x + border
    strength = scores[y, x]
    most = processing.max_keypoints
    if 0 <= most < len(strength):
        kept = np.argpartition(-strength, most - 1)[:most]
        y, x, strength = y[kept], x[kept], strength[kept]
    order = np.lexsort((x, y, -strength))
    return x[order], y[order]


def suppress(scores: Float, radius: int, threshold: float) -> NDArray[np.bool_]:
    """Maxima above a threshold that have no stronger pixel within `radius` (a square window).

    Two more rounds bring back maxima that were hidden only by pixels that fell themselves
    (SuperPoint's published procedure). Pixels below the threshold cannot hide any above it,
    so they are left out from the start.

    Args:
        scores: (H, W).

    Returns:
        (H, W) bool.
    """
    above = scores > threshold
    if radius == 0:
        return above
    window = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    maxima = (scores == cv2.dilate(scores, window)) & above
    for _ in range(2):
        near = cv2.dilate(maxima.view(np.uint8), window).view(np.bool_)
        hidden = above & ~near
        if not hidden.any():
            break
        rest = np.where(hidden, scores, np.float32(0))
        maxima |= (rest == cv2.dilate(rest, window)) & hidden
    return np.asarray(maxima, np.bool_)


def subpixel_offsets(scores: Float, x: NDArray[np.int64], y: NDArray[np.int64]) -> Float:
    """Where the maximum lies within its pixel: a parabola through the log scores in x and in y.

    Args:
        scores: (H, W), positive. x, y: (N,) maxima, not on the outermost pixels for an effect.

    Returns:
        (N, 2) in [−0.5, 0.5].
    """
    height, width = scores.shape
    left, right = np.maximum(x - 1, 0), np.minimum(x + 1, width - 1)
    above, below = np.maximum(y - 1, 0), np.minimum(y + 1, height - 1)
    centre = _log(scores[y, x])
    offsets = np.empty((len(x), 2), np.float32)
    sides = ((scores[y, left], scores[y, right]), (scores[above, x], scores[below, x]))
    for axis, (before, after) in enumerate(sides):
        slope = (_log(after) - _log(before)) / 2
        curve = 2 * centre - _log(before) - _log(after)
        offsets[:, axis] = slope / np.maximum(curve, 1e-6)
    return np.clip(offsets, -0.5, 0.5, out=offsets)


def _log(scores: Float) -> Float:
    return np.log(np.maximum(scores, np.float32(1e-8)))


def sample_descriptors(descriptors: Float, keypoints: Float, sampling: Sampling) -> Float:
    """Bilinear descriptors at keypoints, between normalised ones at the cell centres.

    Args:
        descriptors: (Hc, Wc, D), not normalised. keypoints: (N, 2) xy pixels.
        sampling: "published" repeats DeTone's grid, whose outermost samples touch the outermost
            cell centres; "exact" has the cell centres at 8·i + 3.5. Both repeat the border.

    Returns:
        (N, D) L2-normalised float32.
    """
    rows, columns, _ = descriptors.shape
    cells = np.array([columns, rows], np.float32)
    at = (keypoints - 3.5) / CELL
    if sampling == "published":
        at = at * (CELL * (cells - 1) / (CELL * cells - 4.5))
    at = np.clip(at, 0, cells - 1)
    low = np.minimum(at.astype(np.int64), np.maximum(cells.astype(np.int64) - 2, 0))
    high = np.minimum(low + 1, cells.astype(np.int64) - 1)
    fx, fy = (at - low).astype(np.float32).T
    sampled = np.zeros((len(keypoints), descriptors.shape[2]), np.float32)
    for cell_y, weight_y in ((low[:, 1], 1 - fy), (high[:, 1], fy)):
        for cell_x, weight_x in ((low[:, 0], 1 - fx), (high[:, 0], fx)):
            corner = descriptors[cell_y, cell_x]
            length = np.sqrt(np.einsum("nd,nd->n", corner, corner))
            sampled += corner * (weight_x * weight_y / np.maximum(length, 1e-12))[:, None]
    length = np.sqrt(np.einsum("nd,nd->n", sampled, sampled))
    return np.asarray(sampled / np.maximum(length, np.float32(1e-12))[:, None], np.float32)

"""From the extractor's maps to features, in NumPy and OpenCV, shared by every runtime.

Shape legend: H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, N keypoints, D descriptor
width. Keypoints are (x, y) pixels; the centre of the top-left pixel is (0, 0).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.image import Grey
from featherglue.matching.nms import local_maxima, with_recovered
from featherglue.matching.scratch import Scratch
from featherglue.options import ProcessingConfig, Sampling

Float = NDArray[np.float32]
Index = NDArray[np.int64]
CELL = 8


def pad_to_cells(image: Grey) -> Grey:
    """Repeat the last row and column until both sides are multiples of 8."""
    height, width = image.shape
    bottom, right = -height % CELL, -width % CELL
    if bottom == 0 and right == 0:
        return image
    return np.asarray(cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE))


def decode_features(
    scores: Float,
    descriptors: Float,
    size: tuple[int, int],
    processing: ProcessingConfig,
    scratch: Scratch | None = None,
) -> tuple[Float, Float, Float]:
    """Keypoints, their scores and descriptors, strongest first.

    Args:
        scores: (H, W) in [0, 1], before suppression.
        descriptors: (Hc, Wc, D), not normalised.
        size: (width, height) of the image before it was padded to whole cells.
        scratch: of whoever decodes many images.

    Returns:
        keypoints (N, 2) xy, scores (N,) in [0, 1], descriptors (N, D), L2-normalised.
    """
    x, y = find_keypoints(scores, size, processing, scratch)
    keypoints = np.stack((x, y), 1).astype(np.float32)
    if processing.subpixel:
        keypoints += subpixel_offsets(scores, x, y)
    sampled = sample_descriptors(descriptors, keypoints, processing.descriptor_sampling)
    return keypoints, scores[y, x], sampled


def find_keypoints(
    scores: Float,
    size: tuple[int, int],
    processing: ProcessingConfig,
    scratch: Scratch | None = None,
) -> tuple[Index, Index]:
    """Columns and rows of the strongest maxima of a score map (H, W), strongest first.

    Suppression as published: maxima have no stronger pixel within the radius (a square window);
    two more rounds bring back those that were hidden only by pixels that fell themselves. Then
    the thresholds, the borders of the image of `size` (width, height), and the `max_keypoints`
    strongest.
    """
    scratch = scratch or Scratch()
    threshold, most = processing.keypoint_threshold, processing.max_keypoints
    columns, border = scores.shape[1], processing.remove_borders
    if processing.nms_radius == 0:
        found = np.flatnonzero(scores > threshold)
    else:
        found = local_maxima(scores, processing.nms_radius, threshold, scratch)
        # A maximum hides nothing stronger than itself, so what is weaker than the last maximum
        # that is sure to be kept cannot change the outcome.
        floor = _last_kept(scores, _within(found, columns, size, border), most)
        floor = max(floor, float(np.nextafter(np.float32(threshold), np.float32(2))))
        found = with_recovered(scores, found, floor, processing.nms_radius, scratch)
    found = _within(found, columns, size, border)
    found.sort()  # equal scores in reading order
    found = found[np.argsort(-scores.reshape(-1)[found], kind="stable")]
    found = found[: processing.num_kept(scores.reshape(-1)[found])]
    return found % columns, found // columns


def _within(found: Index, columns: int, size: tuple[int, int], border: int) -> Index:
    """Those of the flat indices whose pixels lie within (width, height) without its border."""
    x, y = found % columns, found // columns
    width, height = size
    inner = (x >= border) & (y >= border) & (x < width - border) & (y < height - border)
    return found[inner]


def _last_kept(scores: Float, found: Index, most: int) -> float:
    """The score of the `most`-th strongest of the maxima, or 0 where there are fewer."""
    if not 0 < most <= len(found):
        return 0.0
    strength = scores.reshape(-1)[found]
    return float(-np.partition(-strength, most - 1)[most - 1])


def subpixel_offsets(scores: Float, x: NDArray[np.int64], y: NDArray[np.int64]) -> Float:
    """Where the maximum lies within its pixel: a parabola through the log scores in x and in y.

    Args:
        scores: (H, W), positive. x, y: (N,) maxima, not on the outermost pixels for an effect.

    Returns:
        (N, 2) in [−0.5, 0.5].
    """
    height, width = scores.shape
    at = y * width + x
    above, below = at - width * (y > 0), at + width * (y < height - 1)
    pixels = np.stack((at, at - (x > 0), at + (x < width - 1), above, below))
    centre, *sides = np.log(np.maximum(scores.reshape(-1)[pixels], np.float32(1e-8)))
    offsets = np.empty((len(x), 2), np.float32)
    for axis, (before, after) in enumerate((sides[:2], sides[2:])):
        slope = (after - before) / 2
        curve = 2 * centre - before - after
        offsets[:, axis] = slope / np.maximum(curve, 1e-6)
    return np.clip(offsets, -0.5, 0.5, out=offsets)


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
    x, y = np.stack((low, high), 1).transpose(2, 1, 0)  # (2, N) each
    cell = y[:, None] * columns + x
    corners = descriptors.reshape(rows * columns, -1).take(cell, axis=0)  # (2, 2, N, D)
    weights = np.stack((1 - fy, fy))[:, None] * np.stack((1 - fx, fx))
    length = np.sqrt(np.einsum("yxnd,yxnd->yxn", corners, corners))
    weights /= np.maximum(length, np.float32(1e-12))
    sampled = np.einsum("yxnd,yxn->nd", corners, weights)
    length = np.sqrt(np.einsum("nd,nd->n", sampled, sampled))
    return np.asarray(sampled / np.maximum(length, np.float32(1e-12))[:, None], np.float32)

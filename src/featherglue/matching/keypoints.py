"""Decoding of the extractor's output into keypoints and descriptors.

Shape legend: H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, N keypoints, D descriptor
width. Keypoints are (x, y) pixels; the center of the top-left pixel is (0, 0).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.nms import find_maxima, recover_maxima
from featherglue.matching.scratch import Scratch
from featherglue.native import kernels
from featherglue.options import ProcessingConfig, Sampling

Float = NDArray[np.float32]
Index = NDArray[np.int64]
CELL = 8


def pad_to_cells(image: Gray) -> Gray:
    """Repeat the last row and column until height and width are multiples of 8."""
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
    """Decode score and descriptor maps into features, strongest first.

    Args:
        scores: (H, W) float32 in [0, 1], before non-maximum suppression.
        descriptors: (Hc, Wc, D) float32, not normalized.
        size: (width, height) of the image before `pad_to_cells`.
        processing: thresholds, radius and number of keypoints.
        scratch: buffers, if many images are decoded.

    Returns:
        Keypoints (N, 2) float32 (x, y) pixels, scores (N,) float32 in [0, 1], descriptors (N, D)
        float32, L2-normalized.
    """
    places = _find_places(scores, size, processing, scratch or Scratch())
    placed = kernels.place_keypoints(scores, places, processing.subpixel)
    if placed is None:
        y, x = np.divmod(places, scores.shape[1])
        keypoints = np.stack((x, y), 1).astype(np.float32)
        if processing.subpixel:
            keypoints += subpixel_offsets(scores, x, y)
        placed = keypoints, scores[y, x]
    keypoints, values = placed
    sampled = sample_descriptors(descriptors, keypoints, processing.descriptor_sampling)
    return keypoints, values, sampled


def find_keypoints(
    scores: Float,
    size: tuple[int, int],
    processing: ProcessingConfig,
    scratch: Scratch | None = None,
) -> tuple[Index, Index]:
    """Find the keypoints of a score map: non-maximum suppression, thresholds and borders.

    Args:
        scores: (H, W) float32 in [0, 1].
        size: (width, height) of the image; keypoints in the padding are discarded.
        processing: thresholds, radius, borders and number of keypoints.
        scratch: buffers, if many images are decoded.

    Returns:
        x (N,) and y (N,) int64, strongest first; equal scores in reading order.
    """
    found = _find_places(scores, size, processing, scratch or Scratch())
    return found % scores.shape[1], found // scores.shape[1]


def _find_places(
    scores: Float, size: tuple[int, int], processing: ProcessingConfig, scratch: Scratch
) -> Index:
    """As `find_keypoints`; flat indices into the map."""
    threshold, limit = processing.keypoint_threshold, processing.max_keypoints
    columns, border = scores.shape[1], processing.remove_borders
    if processing.nms_radius > 0:
        bounds = (border, border, size[0] - border, size[1] - border)
        compiled = kernels.find_keypoints(
            scores,
            processing.nms_radius,
            threshold,
            bounds,
            limit,
            lambda name, count, dtype: scratch.array(name, (count,), dtype),
        )
        if compiled is not None:
            return compiled[: processing.num_kept(scores.reshape(-1)[compiled])]
    if processing.nms_radius == 0:
        found = np.flatnonzero(scores > threshold)
    else:
        found = find_maxima(scores, processing.nms_radius, threshold, scratch)
        # The recovered pixels only add to these maxima: one below the `limit`-th highest score
        # cannot be among the keypoints.
        floor = _limiting_score(scores, _inside(found, columns, size, border), limit)
        floor = max(floor, float(np.nextafter(np.float32(threshold), np.float32(2))))
        found = recover_maxima(scores, found, floor, processing.nms_radius, scratch)
    found = _inside(found, columns, size, border)
    found.sort()
    found = found[np.argsort(-scores.reshape(-1)[found], kind="stable")]
    return found[: processing.num_kept(scores.reshape(-1)[found])]


def _inside(pixels: Index, columns: int, size: tuple[int, int], border: int) -> Index:
    """The pixels (flat indices) inside the image of `size`, without its border."""
    x, y = pixels % columns, pixels // columns
    width, height = size
    inner = (x >= border) & (y >= border) & (x < width - border) & (y < height - border)
    return pixels[inner]


def _limiting_score(scores: Float, pixels: Index, limit: int) -> float:
    """The `limit`-th highest score of the pixels; 0 if there are fewer or no limit (−1)."""
    if not 0 < limit <= len(pixels):
        return 0.0
    values = scores.reshape(-1)[pixels]
    return float(-np.partition(-values, limit - 1)[limit - 1])


def subpixel_offsets(scores: Float, x: NDArray[np.int64], y: NDArray[np.int64]) -> Float:
    """Subpixel positions of maxima from a parabola through the log scores, in x and in y.

    Args:
        scores: (H, W) float32, positive.
        x, y: (N,) int64, maxima.

    Returns:
        (N, 2) float32 offsets in px, in [−0.5, 0.5].
    """
    height, width = scores.shape
    at = y * width + x
    above, below = at - width * (y > 0), at + width * (y < height - 1)
    pixels = np.stack((at, at - (x > 0), at + (x < width - 1), above, below))
    center, *sides = np.log(np.maximum(scores.reshape(-1)[pixels], np.float32(1e-8)))
    offsets = np.empty((len(x), 2), np.float32)
    for axis, (before, after) in enumerate((sides[:2], sides[2:])):
        slope = (after - before) / 2
        curve = 2 * center - before - after
        offsets[:, axis] = slope / np.maximum(curve, 1e-6)
    return np.clip(offsets, -0.5, 0.5, out=offsets)


def sample_descriptors(descriptors: Float, keypoints: Float, sampling: Sampling) -> Float:
    """Sample descriptors at keypoints, bilinearly between the normalized descriptors of cells.

    Args:
        descriptors: (Hc, Wc, D) float32, not normalized.
        keypoints: (N, 2) float32 (x, y) pixels.
        sampling: "exact" places the center of cell i at 8·i + 3.5. "published" uses the sampling
            grid of SuperPoint (DeTone et al. 2018), which stretches the cells to the image border.

    Returns:
        (N, D) float32, L2-normalized.
    """
    rows, columns, _ = descriptors.shape
    cells = np.array([columns, rows], np.float32)
    at = (keypoints - 3.5) / CELL
    if sampling == "published":
        at = at * (CELL * (cells - 1) / (CELL * cells - 4.5))
    at = np.clip(at, 0, cells - 1)
    compiled = kernels.sample_descriptors(descriptors, np.asarray(at, np.float32))
    if compiled is not None:
        return compiled
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

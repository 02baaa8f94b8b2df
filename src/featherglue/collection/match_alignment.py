"""What the track adjustment needs of a match: its alignment on both images.

A window around the keypoint of image 0 is aligned to image 1, and a window around that of image 1
to image 0 (see `matching.subpixel`). Both give the offset o in image 1 of the point that shows the
keypoint of image 0, and the information matrix of the offset. Two alignments that agree are
combined. If they contradict each other, the match has none.

Columns of the array `alignment` (M, 9) float16, one row for each match in ascending order of the
keypoints of image 0, in px of the working frames:

| columns | content |
|---|---|
| 0–3 | linear part of the local affine map from image 0 to image 1, row by row |
| 4–5 | o, (x, y), from the keypoint of image 1; NaN without an alignment |
| 6–8 | information matrix of o: its entries xx, yy and xy, px⁻² |
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.consensus import LocalMaps, fit_local_maps
from featherglue.matching.scratch import Scratch
from featherglue.matching.subpixel import RefineConfig, align_windows, smooth_image

Float = NDArray[np.float32]

NUM_COLUMNS = 9
_SAMPLES = 40.0  # samples of a window that have most of the weight
_MIN_NOISE = 0.02  # variance of a difference of windows: interpolation and quantization
_MAX_INFORMATION = 1e4  # px⁻²
_MAX_DIFFERENCE = 1.0  # px, between the offsets of both alignments
_MIN_AREA_CHANGE = 0.01  # of a local map that can be inverted


def smoothed(image: Gray) -> Gray:
    """The image (H, W) uint8 that `align_matches` takes."""
    return smooth_image(image, RefineConfig().sigma)


def align_matches(
    image0: Gray, image1: Gray, points0: Float, points1: Float
) -> NDArray[np.float16]:
    """Align the matches of two images in both directions.

    Args:
        image0, image1: (H, W) uint8, see `smoothed`.
        points0, points1: (M, 2) float32 (x, y) pixels of the matched keypoints.

    Returns:
        The array `alignment` (M, 9) float16; see the module.
    """
    config = RefineConfig()
    alignment = np.full((len(points0), NUM_COLUMNS), np.nan, np.float32)
    if len(points0) > config.num_neighbors:
        maps = fit_local_maps(points0, points1, config.num_neighbors)
        chosen = maps.deviation < config.max_deviation
        chosen &= np.abs(np.linalg.det(maps.affine)) > _MIN_AREA_CHANGE
        kept = np.flatnonzero(chosen)
        if len(kept):
            alignment[kept] = _align(
                image0, image1, points0[kept], points1[kept], maps[kept], config
            )
    return alignment.astype(np.float16)


@dataclass(frozen=True, eq=False)
class _Offsets:
    """Offsets (M, 2) with information matrices (M, 2, 2), zero without an alignment."""

    values: Float
    information: Float


def _align(
    image0: Gray,
    image1: Gray,
    points0: Float,
    points1: Float,
    maps: LocalMaps,
    config: RefineConfig,
) -> Float:
    """Rows of the array `alignment` for matches with a local map."""
    forward, inverse = maps.affine, np.linalg.inv(maps.affine).astype(np.float32)
    back = -np.einsum("mij,jm->im", inverse, maps.offsets).astype(np.float32)
    first = _one_way(image0, image1, points0, points1, maps.offsets, forward, config)
    second = _one_way(image1, image0, points1, points0, back, inverse, config)
    # Information of a window is in its own image: that of image 0 goes to image 1.
    information0 = inverse.transpose(0, 2, 1) @ first.information @ inverse
    offsets1 = -np.einsum("mij,mj->mi", forward, second.values)
    total = information0 + second.information
    weighted = np.einsum("mij,mj->mi", information0, first.values) + np.einsum(
        "mij,mj->mi", second.information, offsets1
    )
    trace = np.trace(total, axis1=1, axis2=2)
    damping = (1e-3 * trace + np.float32(1e-6))[:, None, None] * np.eye(2, dtype=np.float32)
    combined = np.linalg.solve(total + damping, weighted[..., None])[..., 0]
    both = (first.information[:, 0, 0] > 0) & (second.information[:, 0, 0] > 0)
    apart = np.linalg.norm(first.values - offsets1, axis=1) > _MAX_DIFFERENCE
    combined[(both & apart) | ~(trace > 0)] = np.nan
    total *= (np.minimum(1, _MAX_INFORMATION / np.maximum(trace, 1e-6)))[:, None, None]
    entries = np.stack((total[:, 0, 0], total[:, 1, 1], total[:, 0, 1]), 1)
    return np.concatenate([forward.reshape(-1, 4), combined, entries], 1).astype(np.float32)


def _one_way(
    image0: Gray,
    image1: Gray,
    points0: Float,
    points1: Float,
    offsets: Float,
    affine: Float,
    config: RefineConfig,
) -> _Offsets:
    """Align windows of image 0 to image 1. The information is in px of image 0."""
    aligned = align_windows(
        image0, image1, points0, points1, config.pull * offsets, affine, config, Scratch()
    )
    noise = np.maximum(2 * (1 - aligned.correlation), np.float32(_MIN_NOISE))
    xx, yy, xy = aligned.tensor * (_SAMPLES / noise) * (aligned.accepted | aligned.exact)
    information = np.stack((xx, xy, xy, yy), 1).reshape(-1, 2, 2).astype(np.float32)
    return _Offsets(aligned.points1 - points1, information)

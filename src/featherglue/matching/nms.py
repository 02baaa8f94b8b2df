"""Non-maximum suppression of score maps, exactly as published for SuperPoint.

A maximum has no higher score within the radius (a square window). Two more iterations recover the
pixels that only suppressed pixels had suppressed. Dilating the whole map three times would dominate
the time of decoding. Instead maxima of blocks of 2×2 pixels are compared first, and the later
iterations visit only pixels that are still suppressed.

The compiled kernel `find_keypoints` does the same where there is one.

Shape legend: H×W pixels, both even; scores are at least 0. A pixel is a flat index into the map.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.matching.scratch import Scratch

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

_CHUNK_PIXELS = 2**20  # pixels of windows that are compared at once


def find_maxima(scores: Float, radius: int, threshold: float, scratch: Scratch) -> Index:
    """First iteration: the pixels above the threshold without a higher score within the radius.

    Args:
        scores: (H, W) float32.
        radius: px, at least 1.
        threshold: at least 0.
        scratch: buffers.

    Returns:
        (N,) pixels.
    """
    columns = scores.shape[1]
    blocks = _Blocks(scores.shape, radius, scratch)
    places = blocks.from_map(scores)
    highest = blocks.maxima.reshape(-1)[places]
    above = highest > threshold
    places, highest = places[above], highest[above]
    pixels = blocks.pixels(places, columns)
    block, which = np.nonzero(scores.reshape(-1)[pixels] == highest[:, None])
    certain = blocks.certain(places[block], highest[block])
    return _maxima_of(scores, pixels[block, which], certain, radius)


def recover_maxima(
    scores: Float, maxima: Index, floor: float, radius: int, scratch: Scratch
) -> Index:
    """Second and third iteration: add the maxima among pixels that no maximum suppresses.

    Args:
        scores: (H, W) float32.
        maxima: (N,) pixels from `find_maxima`.
        floor: lowest score of a recovered pixel.
        radius: px, at least 1.
        scratch: buffers.

    Returns:
        (K,) pixels: `maxima` and the recovered ones.
    """
    shape, flat = scores.shape, scores.reshape(-1)
    suppressed = scratch.array("suppressed", shape, np.uint8)
    candidates = np.greater_equal(scores, floor, out=scratch.array("candidates", shape, np.bool_))
    is_maximum = scratch.array("is_maximum", shape, np.uint8)
    blocks = _Blocks(shape, radius, scratch)
    is_maximum.fill(0)
    new, rest = maxima, None
    for _ in range(2):
        is_maximum.reshape(-1)[new] = 1
        cv2.dilate(is_maximum, _window(radius), dst=suppressed)
        if rest is None:
            # As integers, 1 > 0: a candidate that is not suppressed.
            rest = np.flatnonzero(np.greater(candidates.view(np.uint8), suppressed, out=candidates))
        else:
            rest = rest[suppressed.reshape(-1)[rest] == 0]
        if len(rest) == 0:
            break
        values = flat[rest]
        places = blocks.places(rest, shape[1])
        best = blocks.from_pixels(places, values)
        certain = blocks.certain(places[best], values[best])
        new = _maxima_of(scores, rest[best], certain, radius, suppressed)
        maxima = np.concatenate((maxima, new))
    return maxima


class _Blocks:
    """Maxima of blocks of pixels: a block below another one within reach holds no maximum.

    Empty blocks surround the map. A place is a flat index of a block.

    Attributes:
        side: px, width and height of a block.
        reach: number of blocks to each side that lie within the radius of all pixels of a block.
        columns: number of blocks in a row.
        maxima: highest score of each block.
        highest: highest score of each block and those within reach.
    """

    def __init__(self, shape: tuple[int, ...], radius: int, scratch: Scratch) -> None:
        self.side = 2 if radius > 2 else 1
        self.reach = radius if self.side == 1 else (radius - 1) // 2
        self._scratch = scratch
        height, width = shape[0] // self.side, shape[1] // self.side
        self.columns = width + 2
        self.maxima = scratch.array("blocks", (height + 2, self.columns), np.float32)
        self.highest = scratch.array("highest", self.maxima.shape, np.float32)

    def from_map(self, scores: Float) -> Index:
        """Set the maxima from a map (H, W). Returns the places without a higher one in reach."""
        self.maxima.fill(0)
        inside = self.maxima[1:-1, 1:-1]
        if self.side == 1:
            inside[:] = scores
        else:
            pairs = self._scratch.array("pairs", (len(inside), scores.shape[1]), np.float32)
            pairs = np.asarray(cv2.max(scores[::2], scores[1::2], dst=pairs))
            np.maximum(pairs[:, ::2], pairs[:, 1::2], out=inside)
        self._dilate()
        equal = self._scratch.array("equal", self.maxima.shape, np.bool_)
        return np.flatnonzero(np.equal(self.maxima, self.highest, out=equal))

    def from_pixels(self, places: Index, values: Float) -> Index:
        """Set the maxima from pixels (N,). Returns the positions of those without a higher block
        in reach."""
        self.maxima.fill(0)
        np.maximum.at(self.maxima.reshape(-1), places, values)
        self._dilate()
        return np.flatnonzero(values == self.highest.reshape(-1)[places])

    def _dilate(self) -> None:
        cv2.dilate(self.maxima, _window(self.reach), dst=self.highest)

    def places(self, pixels: Index, width: int) -> Index:
        """The places (N,) of pixels (N,) of a map of this width."""
        y = pixels // width
        x = pixels - y * width
        return (y // self.side + 1) * self.columns + x // self.side + 1

    def pixels(self, places: Index, width: int) -> Index:
        """The pixels (N, side²) of the blocks at places (N,)."""
        y = places // self.columns
        x = places - y * self.columns
        side = np.arange(self.side)
        first = ((y - 1) * width + x - 1) * self.side
        return np.asarray(first[:, None] + (side[:, None] * width + side).reshape(-1))

    def certain(self, places: Index, values: Float) -> Mask:
        """Mask (N,) of values without a higher block that overlaps the radius of any pixel."""
        if self.side == 1:
            return np.ones(len(places), np.bool_)
        # One block more than `reach`, covered by the reach of the four diagonal neighbors.
        up, down = -self.columns, self.columns
        corners = np.array([up - 1, up + 1, down - 1, down + 1])
        beyond = self.highest.reshape(-1)[corners[:, None] + places]
        return np.asarray(beyond.max(0) <= values)


@cache
def _window(radius: int) -> NDArray[np.uint8]:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _maxima_of(
    scores: Float,
    candidates: Index,
    certain: Mask,
    radius: int,
    suppressed: NDArray[np.uint8] | None = None,
) -> Index:
    """The candidates without a higher score within the radius.

    Args:
        scores: (H, W).
        candidates: (N,) pixels.
        certain: (N,), candidates that are known to be maxima.
        radius: px.
        suppressed: (H, W), pixels whose score is ignored where it is not 0.
    """
    kept = certain.copy()
    uncertain = np.flatnonzero(~certain)
    chunk = max(1, _CHUNK_PIXELS // (2 * radius + 1) ** 2)
    for start in range(0, len(uncertain), chunk):
        part = uncertain[start : start + chunk]
        pixels = candidates[part]
        neighbors = _neighbors(pixels, radius, scores.shape)
        others = scores.reshape(-1)[neighbors]
        if suppressed is not None:
            others *= suppressed.reshape(-1)[neighbors] == 0
        kept[part] = others.max(0) <= scores.reshape(-1)[pixels]
    return candidates[kept]


def _neighbors(pixels: Index, radius: int, shape: tuple[int, ...]) -> Index:
    """The pixels ((2·radius + 1)², N) within the radius; coordinates are clipped to the map."""
    height, width = shape
    offsets = np.arange(-radius, radius + 1)[:, None]
    y = pixels // width
    x = np.minimum(np.maximum(pixels - y * width + offsets, 0), width - 1)
    y = np.minimum(np.maximum(y + offsets, 0), height - 1)
    return np.asarray((y * width)[:, None] + x).reshape(len(offsets) ** 2, -1)

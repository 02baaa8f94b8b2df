"""Non-maximum suppression of score maps as published for SuperPoint, exactly, in NumPy and OpenCV.

A maximum has no stronger pixel within the radius (a square window); two more rounds bring back
those that were hidden only by pixels that fell themselves. To dilate the whole map three times
takes longer than all else that is done with it: maxima of blocks of 2×2 pixels are compared first,
and the later rounds look only at the pixels that are still hidden.

Shape legend: H×W pixels, both even; scores are not negative. A pixel is a flat index into the map.
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.matching.scratch import Scratch

Float = NDArray[np.float32]
Index = NDArray[np.int64]

# Pixels that are looked at together, one by one.
_AT_ONCE = 2**20


def local_maxima(scores: Float, radius: int, threshold: float, scratch: Scratch) -> Index:
    """The pixels above the threshold with no stronger one within the radius.

    Args:
        scores: (H, W) float32. radius: px, at least 1. threshold: at least 0.
    """
    columns = scores.shape[1]
    blocks = _Blocks(scores.shape, radius, scratch)
    places = blocks.of_map(scores)
    highest = blocks.maxima.reshape(-1)[places]
    kept = highest > threshold
    places, highest = places[kept], highest[kept]
    pixels = blocks.pixels(places, columns)
    of, which = np.nonzero(scores.reshape(-1)[pixels] == highest[:, None])
    sure = blocks.sure(places[of], highest[of])
    return _unsurpassed(scores, pixels[of, which], sure, radius)


def with_recovered(
    scores: Float, maxima: Index, floor: float, radius: int, scratch: Scratch
) -> Index:
    """The maxima, and those pixels of at least `floor` that two more rounds find."""
    shape, flat = scores.shape, scores.reshape(-1)
    strong = np.greater_equal(scores, floor, out=scratch.array("strong", shape, np.bool_))
    mark, near = (scratch.array(name, shape, np.uint8) for name in ("mark", "near"))
    blocks = _Blocks(shape, radius, scratch)
    mark.fill(0)
    new, rest = maxima, None
    for _ in range(2):
        mark.reshape(-1)[new] = 1
        cv2.dilate(mark, _square(radius), dst=near)
        if rest is None:
            hidden = np.greater(strong.view(np.uint8), near, out=strong)  # strong and not near
            rest = np.flatnonzero(hidden)
        else:
            rest = rest[near.reshape(-1)[rest] == 0]
        if len(rest) == 0:
            break
        values = flat[rest]
        places = blocks.places(rest, shape[1])
        best = blocks.of_pixels(places, values)
        sure = blocks.sure(places[best], values[best])
        new = _unsurpassed(scores, rest[best], sure, radius, near)
        maxima = np.concatenate((maxima, new))
    return maxima


class _Blocks:
    """Maxima of blocks of pixels: where a block is surpassed, so are its pixels.

    There is a border of empty blocks; a place is a flat index of a block.

    Attributes:
        side: px, of a block. reach: blocks to each side that lie within the radius of all pixels
            of a block. maxima: of the blocks; `highest` those within reach.
    """

    def __init__(self, shape: tuple[int, ...], radius: int, scratch: Scratch) -> None:
        self.side = 2 if radius > 2 else 1
        self.reach = radius if self.side == 1 else (radius - 1) // 2
        self._scratch = scratch
        height, width = shape[0] // self.side, shape[1] // self.side
        self.columns = width + 2
        self.maxima = scratch.array("blocks", (height + 2, self.columns), np.float32)
        self.highest = scratch.array("highest", self.maxima.shape, np.float32)

    def of_map(self, scores: Float) -> Index:
        """Take the maxima from a map (H, W). Returns the places that nothing in reach surpasses."""
        self.maxima.fill(0)
        inside = self.maxima[1:-1, 1:-1]
        if self.side == 1:
            inside[:] = scores
        else:
            pairs = self._scratch.array("pairs", (len(inside), scores.shape[1]), np.float32)
            pairs = np.asarray(cv2.max(scores[::2], scores[1::2], dst=pairs))
            np.maximum(pairs[:, ::2], pairs[:, 1::2], out=inside)
        self._dilate()
        same = self._scratch.array("same", self.maxima.shape, np.bool_)
        return np.flatnonzero(np.equal(self.maxima, self.highest, out=same))

    def of_pixels(self, places: Index, values: Float) -> Index:
        """Take the maxima from pixels (N,) in these places. Returns the positions of those that no
        block in reach surpasses."""
        self.maxima.fill(0)
        np.maximum.at(self.maxima.reshape(-1), places, values)
        self._dilate()
        return np.flatnonzero(values == self.highest.reshape(-1)[places])

    def _dilate(self) -> None:
        cv2.dilate(self.maxima, _square(self.reach), dst=self.highest)

    def places(self, pixels: Index, width: int) -> Index:
        """The places of pixels of a map of that width."""
        y = pixels // width
        x = pixels - y * width
        return (y // self.side + 1) * self.columns + x // self.side + 1

    def pixels(self, places: Index, width: int) -> Index:
        """(N, side²): the pixels of the blocks in these places."""
        y = places // self.columns
        x = places - y * self.columns
        side = np.arange(self.side)
        first = ((y - 1) * width + x - 1) * self.side
        return np.asarray(first[:, None] + (side[:, None] * width + side).reshape(-1))

    def sure(self, places: Index, values: Float) -> NDArray[np.bool_]:
        """Which values no block surpasses that lies within the radius of any pixel of theirs."""
        if self.side == 1:
            return np.ones(len(places), np.bool_)
        # One block farther than `reach`: what is in reach of the four blocks at the corners.
        up, down = -self.columns, self.columns
        corners = np.array([up - 1, up + 1, down - 1, down + 1])
        beyond = self.highest.reshape(-1)[corners[:, None] + places]
        return np.asarray(beyond.max(0) <= values)


@cache
def _square(radius: int) -> NDArray[np.uint8]:
    return np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)


def _unsurpassed(
    scores: Float,
    found: Index,
    sure: NDArray[np.bool_],
    radius: int,
    near: NDArray[np.uint8] | None = None,
) -> Index:
    """Of the pixels found those that are sure, or that no pixel within the radius surpasses; what
    is `near` (H, W) a maximum does not count."""
    kept = sure.copy()
    doubtful = np.flatnonzero(~sure)
    at_once = max(1, _AT_ONCE // (2 * radius + 1) ** 2)
    for start in range(0, len(doubtful), at_once):
        part = doubtful[start : start + at_once]
        pixels = found[part]
        around = _windows(pixels, radius, scores.shape)
        others = scores.reshape(-1)[around]
        if near is not None:
            others *= near.reshape(-1)[around] == 0
        kept[part] = others.max(0) <= scores.reshape(-1)[pixels]
    return found[kept]


def _windows(pixels: Index, radius: int, shape: tuple[int, ...]) -> Index:
    """((2·radius + 1)², N): the pixels around each. Of what lies outside of the map, those at its
    border, which are within the radius too."""
    height, width = shape
    offsets = np.arange(-radius, radius + 1)[:, None]
    y = pixels // width
    x = np.minimum(np.maximum(pixels - y * width + offsets, 0), width - 1)
    y = np.minimum(np.maximum(y + offsets, 0), height - 1)
    return np.asarray((y * width)[:, None] + x).reshape(len(offsets) ** 2, -1)

"""Extraction in overlapping tiles: large images at full detail in bounded memory.

The image is divided into cores, one for each tile. A tile is its core and a margin, which holds
what the network sees around a keypoint. Keypoints of the margin are dropped: another tile has them
in its core. The strongest keypoints of all tiles are selected together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.extractors import Decoded, Extractor
from featherglue.matching.keypoints import CELL
from featherglue.matching.stopwatch import Stopwatch
from featherglue.options import ProcessingConfig

_GRID = 32  # px, coarsest cells of a context branch with two levels
# px on each side of a core. At least 96 are left where tiles start at whole cells; pixels beyond
# them hardly change a descriptor of `fast` (cosine above 0.98).
_MARGIN = 112
_KEYPOINTS_PER_CELL = 8  # mean number of keypoints in a cell of the even selection


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along an axis, in pixels: [start, end) with the core [core_start, core_end)."""

    start: int
    end: int
    core_start: int
    core_end: int


def extract_in_tiles(
    extractor: Extractor, image: Gray, processing: ProcessingConfig, watch: Stopwatch
) -> Decoded:
    """Extract an image tile by tile and select keypoints over all tiles.

    An image of at most one tile gives the same features as without tiles.

    Args:
        extractor: with the settings `processing`.
        image: (H, W) uint8.
        processing: settings; the side of a tile is `working_size`, or twice the margin and 64
            pixels if that is more.
        watch: adds up the time by stage.
    """
    height, width = image.shape
    side = max(processing.working_size // CELL * CELL, 2 * _MARGIN + 64)
    kept: Decoded | None = None
    for row in tile_spans(height, side):
        for column in tile_spans(width, side):
            tile = np.ascontiguousarray(image[row.start : row.end, column.start : column.end])
            output = extractor.run(tile, watch)
            found = extractor.decode(output, (tile.shape[1], tile.shape[0]), watch)
            found = _in_core(found, column, row)
            kept = found if kept is None else _joined(kept, found)
            # A keypoint that is not selected now is not selected with more keypoints, either.
            kept = _chosen(kept, select(kept, (width, height), processing))
    assert kept is not None
    return kept


def tile_spans(length: int, side: int) -> Iterator[Span]:
    """Tiles of at most `side` pixels that cover an axis; their cores do not overlap."""
    if length <= side:
        yield Span(0, length, 0, length)
        return
    step = side - 2 * _MARGIN
    count = max(2, -(-(length - 2 * _MARGIN) // step))
    # Tiles start at whole cells, so that the network sees the same cells in each.
    starts = [-(-i * (length - side) // ((count - 1) * _GRID)) * _GRID for i in range(count)]
    for i, start in enumerate(starts):
        # Cores meet in the middle of the overlap of two tiles.
        low = 0 if i == 0 else (starts[i - 1] + side + start) // 2
        high = length if i == count - 1 else (start + side + starts[i + 1]) // 2
        yield Span(start, min(start + side, length), low, high)


def select(found: Decoded, size: tuple[int, int], processing: ProcessingConfig) -> NDArray[np.intp]:
    """Indices of the keypoints to keep, strongest first.

    Args:
        found: keypoints of the whole image, in any order.
        size: (width, height) of the image.
        processing: `max_keypoints`, thresholds, and `spread`: take the strongest keypoint of each
            cell of a grid, then the second of each cell, and so on.
    """
    order = np.argsort(-found.scores, kind="stable")
    if not processing.spread:
        return order[: processing.num_kept(found.scores[order])]
    unlimited = dataclasses.replace(processing, max_keypoints=-1)
    order = order[: unlimited.num_kept(found.scores[order])]
    if not 0 < processing.max_keypoints < len(order):
        return order
    ranks = _ranks_in_cells(found.keypoints[order], size, processing.max_keypoints)
    first = np.argsort(ranks, kind="stable")[: processing.max_keypoints]
    return order[np.sort(first)]


def _ranks_in_cells(
    keypoints: NDArray[np.float32], size: tuple[int, int], count: int
) -> NDArray[np.intp]:
    """Rank of each keypoint among those of its cell; the keypoints are sorted by strength."""
    width, height = size
    side = np.sqrt(width * height * _KEYPOINTS_PER_CELL / count)
    columns = max(1, round(width / side))
    rows = max(1, round(height / side))
    x = np.clip(keypoints[:, 0] * columns / width, 0, columns - 1).astype(np.intp)
    y = np.clip(keypoints[:, 1] * rows / height, 0, rows - 1).astype(np.intp)
    cells = y * columns + x
    grouped = np.argsort(cells, kind="stable")
    counts = np.bincount(cells)
    starts = np.repeat(np.cumsum(counts) - counts, counts)
    ranks = np.empty(len(cells), np.intp)
    ranks[grouped] = np.arange(len(cells)) - starts
    return ranks


def _in_core(found: Decoded, column: Span, row: Span) -> Decoded:
    """The features of the core of a tile, in pixels of the image."""
    points = found.keypoints + np.array([column.start, row.start], np.float32)
    x, y = points.T
    inside = (x >= column.core_start - 0.5) & (x < column.core_end - 0.5)
    inside &= (y >= row.core_start - 0.5) & (y < row.core_end - 0.5)
    return Decoded(points[inside], found.scores[inside], found.descriptors[inside])


def _joined(first: Decoded, second: Decoded) -> Decoded:
    return Decoded(*(np.concatenate(arrays) for arrays in zip(first, second, strict=True)))


def _chosen(found: Decoded, indices: NDArray[np.intp]) -> Decoded:
    return Decoded(*(array[indices] for array in found))

"""From the extractor's maps to features, in NumPy and OpenCV, shared by every runtime.

Shape legend: H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, N keypoints, D descriptor
width. Keypoints are (x, y) pixels; the centre of the top-left pixel is (0, 0).
"""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.config import ProcessingConfig, Sampling
from featherglue.image import Grey
from featherglue.scratch import Scratch

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
    the threshold, the borders of the image of `size` (width, height), and the `max_keypoints`
    strongest.
    """
    scratch = scratch or Scratch()
    threshold, most = processing.keypoint_threshold, processing.max_keypoints
    columns, border = scores.shape[1], processing.remove_borders
    if processing.nms_radius == 0:
        found = np.flatnonzero(scores > threshold)
    else:
        found = _maxima(scores, processing.nms_radius, threshold, scratch)
        # A maximum hides nothing stronger than itself, so what is weaker than the last maximum
        # that is sure to be kept cannot change the outcome.
        floor = _last_kept(scores, _within(found, columns, size, border), most)
        floor = max(floor, float(np.nextafter(np.float32(threshold), np.float32(2))))
        found = _recover_hidden(scores, found, floor, processing.nms_radius, scratch)
    found = _within(found, columns, size, border)
    strength = scores.reshape(-1)[found]
    if 0 <= most < len(strength):
        kept = np.argpartition(-strength, most - 1)[:most] if most else np.zeros(0, np.int64)
        found = found[kept]
    found.sort()  # equal scores in reading order
    found = found[np.argsort(-scores.reshape(-1)[found], kind="stable")]
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


def _maxima(scores: Float, radius: int, threshold: float, scratch: Scratch) -> Index:
    """Flat indices of the pixels above the threshold with no stronger one within the radius."""
    columns = scores.shape[1]
    blocks = _Blocks(scores.shape, radius, scratch)
    places = blocks.of_map(scores)
    highest = blocks.maxima.reshape(-1)[places]
    kept = highest > threshold
    places, highest = places[kept], highest[kept]
    pixels = blocks.pixels(places, columns)
    of, which = np.nonzero(scores.reshape(-1)[pixels] == highest[:, None])
    return _unsurpassed(scores, pixels[of, which], blocks.sure(places[of], highest[of]), radius)


def _recover_hidden(
    scores: Float, maxima: Index, floor: float, radius: int, scratch: Scratch
) -> Index:
    """Flat indices of the maxima, with those (of at least `floor`) that two more rounds find."""
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
            far = np.greater(strong.view(np.uint8), near, out=strong)  # strong, near no maximum
            rest = np.flatnonzero(far)
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
    """Maxima of blocks of pixels: what is none among them need not be looked at more closely.

    With an empty border one block wide; a place is a flat index into it. Of each block's pixels the
    window of `near` holds those blocks alone that lie within the radius of all of them.
    """

    def __init__(self, shape: tuple[int, ...], radius: int, scratch: Scratch) -> None:
        self.side = 2 if radius > 2 else 1
        self.reach = radius if self.side == 1 else (radius - 1) // 2
        self._scratch = scratch
        height, width = shape[0] // self.side, shape[1] // self.side
        self.columns = width + 2
        self.maxima = scratch.array("blocks", (height + 2, self.columns), np.float32)
        self.near = scratch.array("inner", self.maxima.shape, np.float32)

    def of_map(self, scores: Float) -> Index:
        """Take the maxima from a map (H, W). Returns the places of those that are so nearby."""
        self.maxima.fill(0)
        inside = self.maxima[1:-1, 1:-1]
        if self.side == 1:
            inside[:] = scores
        else:
            shape = len(inside), scores.shape[1]
            pairs = self._scratch.array("pairs", shape, np.float32)
            cv2.max(scores[::2], scores[1::2], dst=pairs)
            np.maximum(pairs[:, ::2], pairs[:, 1::2], out=inside)
        self._dilate()
        same = self._scratch.array("same", self.near.shape, np.bool_)
        return np.flatnonzero(np.equal(self.maxima, self.near, out=same))

    def of_pixels(self, places: Index, values: Float) -> Index:
        """Take the maxima from pixels (N,) in these places. Returns which are so nearby."""
        self.maxima.fill(0)
        np.maximum.at(self.maxima.reshape(-1), places, values)
        self._dilate()
        return np.flatnonzero(values == self.near.reshape(-1)[places])

    def _dilate(self) -> None:
        cv2.dilate(self.maxima, _square(self.reach), dst=self.near)

    def places(self, pixels: Index, width: int) -> Index:
        """The places of flat indices into a map of that width."""
        y = pixels // width
        x = pixels - y * width
        return (y // self.side + 1) * self.columns + x // self.side + 1

    def pixels(self, places: Index, width: int) -> Index:
        """(N, side²): flat indices of the pixels in these places."""
        y = places // self.columns
        x = places - y * self.columns
        side = np.arange(self.side)
        first = ((y - 1) * width + x - 1) * self.side
        return np.asarray(first[:, None] + (side[:, None] * width + side).reshape(-1))

    def sure(self, places: Index, values: Float) -> NDArray[np.bool_]:
        """Which values no block within the radius of any of the block's pixels surpasses."""
        if self.side == 1:
            return np.ones(len(places), np.bool_)
        corners = np.array(
            [-self.columns - 1, 1 - self.columns, self.columns - 1, self.columns + 1]
        )
        beyond = self.near.reshape(-1)[corners[:, None] + places]
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
    """Of the pixels found those that are sure, or that no pixel within the radius surpasses, those
    apart that are `near` (H, W) a maximum."""
    doubtful = np.flatnonzero(~sure)
    (height, width), flat = scores.shape, scores.reshape(-1)
    pixels = found[doubtful]
    # Of what lies outside, the border, which is within the radius too.
    offsets = np.arange(-radius, radius + 1)[:, None]
    y = pixels // width
    x = np.minimum(np.maximum(pixels - y * width + offsets, 0), width - 1)
    y = np.minimum(np.maximum(y + offsets, 0), height - 1)
    around = ((y * width)[:, None] + x).reshape(len(offsets) ** 2, -1)
    others = flat[around]
    if near is not None:
        others *= near.reshape(-1)[around] == 0
    sure[doubtful] = others.max(0) <= flat[pixels]
    return found[sure]


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

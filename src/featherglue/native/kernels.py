"""The compiled kernels as functions on arrays.

Each returns None if there is no compiled library, or for input that it does not take. The callers,
in `featherglue.matching` and `featherglue.geometry`, then do the same in NumPy; their docstrings
describe the results.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.native.library import MAX_THREADS, library, pointer

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Index = NDArray[np.int64]
Bytes = NDArray[np.uint8]

LANES = 8  # values that are computed at once: local maps, columns of a score matrix
_MAX_TILE = 16  # columns of a product of descriptors that are computed at once
_MAX_NEIGHBORS, _MAX_WINDOW = 64, 31  # of a match; px, side of a window
_MANY_SCORES = 500_000  # of a matrix, above which more threads than one save time
_MAX_PIXELS = 2**31 - 1  # of an image whose places are 32-bit integers


def optimal_transport(
    scores: Float, bin_score: float, iterations: int, least: float
) -> Float | None:
    """See `matching.assignment.optimal_transport`; `least` is the smallest sum that is divided by.

    The result is a view of a matrix with longer rows.
    """
    native = library()
    if native is None or not _rows_are_contiguous(scores):
        return None
    rows, columns = scores.shape
    stride = -(-(columns + 1) // LANES) * LANES
    kernel = np.empty((rows + 1, stride), np.float32)
    work = np.empty(2 * stride + rows + 1, np.float32)
    failed = native.optimal_transport(
        *_matrix(scores),
        bin_score,
        iterations,
        least,
        pointer(kernel),
        stride,
        pointer(work),
    )
    return None if failed else kernel[:, : columns + 1]


def mutual_pairs(values: Float, threshold: float) -> tuple[Index, Float] | None:
    """See `matching.assignment.mutual_matches`, here without dustbins."""
    native = library()
    if native is None or not _rows_are_contiguous(values):
        return None
    rows, columns = values.shape
    best, pairs = np.empty(rows, np.int64), np.empty((rows, 2), np.int64)
    highest, scores = np.empty(columns, np.float32), np.empty(rows, np.float32)
    count = native.mutual_pairs(
        *_matrix(values),
        threshold,
        pointer(best),
        pointer(highest),
        pointer(pairs),
        pointer(scores),
    )
    return pairs[:count], scores[:count]


def nearest_pairs(
    descriptors0: Float, descriptors1: Float, threshold: float
) -> tuple[Index, Float] | None:
    """See `matching.assignment.nearest_neighbors`, here without the ratio test."""
    native = library()
    if native is None:
        return None
    first, second = (np.ascontiguousarray(d, np.float32) for d in (descriptors0, descriptors1))
    (rows, dim), columns = first.shape, len(second)
    best, pairs = np.empty(rows, np.int64), np.empty((rows, 2), np.int64)
    top, scores = np.empty(rows, np.float32), np.empty(rows, np.float32)
    highest = np.empty(columns + _MAX_TILE, np.float32)
    work = np.empty(native.nearest_work_size(columns, dim), np.float32)
    count = native.nearest_pairs(
        pointer(first),
        rows,
        pointer(second),
        columns,
        dim,
        threshold,
        *(pointer(array) for array in (work, best, top, highest, pairs, scores)),
    )
    return pairs[:count], scores[:count]


def match_scores(
    scores: Float,
    bin_score: float,
    iterations: int,
    least: float,
    threshold: float,
    threads: int,
    work: Callable[[int], Float],
) -> tuple[Index, Float] | None:
    """See `matching.assignment.match_scores`; `work` gives a buffer of a number of elements."""
    native = library()
    if native is None or not _rows_are_contiguous(scores):
        return None
    rows, columns = scores.shape
    if scores.size < _MANY_SCORES:
        threads = 1
    best, pairs = np.empty(rows, np.int64), np.empty((rows, 2), np.int64)
    probabilities = np.empty(rows, np.float32)
    count = native.match_scores(
        *_matrix(scores),
        bin_score,
        iterations,
        least,
        threshold,
        min(threads, MAX_THREADS),
        pointer(work(native.match_scores_work_size(rows, columns))),
        pointer(best),
        pointer(pairs),
        pointer(probabilities),
    )
    return None if count < 0 else (pairs[:count], probabilities[:count])


def find_keypoints(
    scores: Float,
    radius: int,
    threshold: float,
    bounds: tuple[int, int, int, int],
    limit: int,
    buffer: Callable[[str, int, type[np.generic]], NDArray[Any]],
) -> Index | None:
    """See `matching.keypoints.find_keypoints`: places (N,) in the map, strongest first.

    Args:
        scores: (H, W) float32, at least 0.
        radius: px, at least 1.
        threshold: that a score must exceed, at least 0.
        bounds: left, top, right and bottom of the places, the last two exclusive.
        limit: number of keypoints, −1 for all. The result may be longer.
        buffer: gives an array by name, number of elements and type.
    """
    native = library()
    if native is None or not scores.flags.c_contiguous:
        return None
    height, width = scores.shape
    limits = np.array(bounds, np.int64)
    alive, row = buffer("alive", scores.size, np.float32), buffer("row", width, np.int64)
    capacity = 16384
    while True:
        places = buffer("places", 3 * capacity, np.int64).reshape(3, capacity)
        count = native.find_keypoints(
            pointer(scores),
            height,
            width,
            radius,
            threshold,
            pointer(limits),
            limit,
            pointer(alive),
            pointer(row),
            *(pointer(part) for part in places),
            capacity,
        )
        if count >= 0:
            return np.array(places[0, :count])
        capacity *= 8


def place_keypoints(scores: Float, places: Index, subpixel: bool) -> tuple[Float, Float] | None:
    """Positions (N, 2) and scores (N,) of places (N,) in a score map (H, W).

    See `matching.keypoints.subpixel_offsets`.
    """
    native = library()
    if native is None or not scores.flags.c_contiguous:
        return None
    height, width = scores.shape
    points, values = np.empty((len(places), 2), np.float32), np.empty(len(places), np.float32)
    native.place_keypoints(
        pointer(scores),
        height,
        width,
        pointer(places),
        len(places),
        subpixel,
        pointer(points),
        pointer(values),
    )
    return points, values


def sample_descriptors(descriptors: Float, at: Float) -> Float | None:
    """Descriptors at the cells `at` (N, 2). See `matching.keypoints.sample_descriptors`."""
    native = library()
    if native is None or not descriptors.flags.c_contiguous:
        return None
    rows, columns, dim = descriptors.shape
    at = np.ascontiguousarray(at, np.float32)
    sampled = np.empty((len(at), dim), np.float32)
    native.sample_descriptors(
        pointer(descriptors), rows, columns, dim, pointer(at), len(at), pointer(sampled)
    )
    return sampled


def optimize_fundamental(
    points0: Double,
    points1: Double,
    model: Double,
    threshold: float,
    min_median: float,
    scale_factor: float,
    min_used: int,
    iterations: int,
    min_step: float,
) -> Double | None:
    """See `geometry.local_optimization.optimize_fundamental`.

    Args:
        points0, points1: (M, 2) normalized points, finite.
        model: (19,), U, V and the ratio of the singular values.
        threshold: distance beyond which a match has no weight.
        min_median: lower bound of the median distance.
        scale_factor: scale of the weights over the median distance.
        min_used: minimum number of matches within the threshold.
        iterations: maximum number of iterations.
        min_step: a step that ends the iterations.

    Returns:
        (19,) the new model; `model` itself without an improvement. None without a compiled
        library, or if the matches are degenerate.
    """
    native = library()
    if native is None:
        return None
    first, second = (np.ascontiguousarray(p, np.float64) for p in (points0, points1))
    optimized, work = model.copy(), np.empty(len(first))
    state = native.optimize_fundamental(
        pointer(first),
        pointer(second),
        len(first),
        pointer(optimized),
        threshold,
        min_median,
        scale_factor,
        min_used,
        iterations,
        min_step,
        pointer(work),
    )
    return None if state < 0 else optimized if state else model


def nearest_points(points: Float, count: int) -> tuple[NDArray[np.int32], Float] | None:
    """The nearest other points of each point.

    Args:
        points: (M, 2) float32, finite.
        count: k, less than M.

    Returns:
        Indices (k, M) int32, nearest first, and squared distances (k, M) float32.
    """
    native = library()
    if native is None or count > _MAX_NEIGHBORS:
        return None
    order = np.argsort(points[:, 0])
    xs, ys = np.ascontiguousarray(points[order].T, np.float32)
    indices = np.empty((count, len(points)), np.int32)
    squares = np.empty((count, len(points)), np.float32)
    native.nearest_points(
        pointer(xs),
        pointer(ys),
        pointer(order),
        len(points),
        count,
        pointer(indices),
        pointer(squares),
    )
    return indices, squares


def fit_maps(
    relative: Float, weights: Float, prior: Float, ridge: float, scale: float, solution: Float
) -> bool:
    """One step of the fit of local affine maps, in place; False if NumPy must do it.

    Args:
        relative: (5, k, M) float32, see `matching.consensus`, M a multiple of `LANES`.
        weights: (k, M) float32, of the neighbors.
        prior: (2, 2, M) float32, linear parts that the ridge pulls toward.
        ridge: relative to the spread of the neighbors.
        scale: px, residual that reduces a weight to a quarter; 0 in the first step.
        solution: (2, 3, M) float32, the maps of the step before; overwritten.
    """
    native = library()
    if native is None:
        return False
    _, count, size = relative.shape
    native.fit_maps(
        pointer(relative),
        count,
        size,
        pointer(weights),
        pointer(prior),
        ridge,
        scale,
        pointer(solution),
    )
    return True


def align_windows(
    images: tuple[Bytes, Bytes],
    points: tuple[Float, Float],
    pulls: Float,
    maps: Float,
    window: tuple[Float, NDArray[np.int32], Float, int],
    iterations: int,
    damping: float,
    least_step: float,
) -> tuple[Float, Float, Float] | None:
    """See `matching.subpixel.align_windows`.

    Args:
        images: both blurred images, (H, W) uint8.
        points: (S, 2) each, px.
        pulls: (S, 2), px.
        maps: (S, 2, 2).
        window: offsets (2, W) of the samples, their places (W,) in the square with a border of
            1 px, their weights (W,), and the side of that square, px.
        iterations: number of Gauss–Newton iterations.
        damping: relative to the trace of a window's structure tensor.
        least_step: px, a step that ends the iterations.

    Returns:
        Points (S, 2) in image 1; correlation before and after and contrast in both images (S, 4);
        structure tensors (S, 3).
    """
    native = library()
    grid, places, weights, side = window
    if native is None or side > _MAX_WINDOW + 2 or max(i.size for i in images) > _MAX_PIXELS:
        return None
    arrays = [np.ascontiguousarray(a, np.float32) for a in (*points, pulls, maps)]
    count = len(arrays[0])
    results = tuple(np.empty((count, size), np.float32) for size in (2, 4, 3))
    sizes = [(pointer(image), *image.shape) for image in images]
    native.align_windows(
        *sizes[0],
        *sizes[1],
        *(pointer(a) for a in arrays),
        count,
        pointer(grid),
        pointer(places),
        pointer(weights),
        len(weights),
        side,
        iterations,
        damping,
        least_step,
        *(pointer(a) for a in results),
    )
    return results[0], results[1], results[2]


def _rows_are_contiguous(matrix: Float) -> bool:
    return matrix.dtype == np.float32 and matrix.strides[1] == 4 and matrix.strides[0] % 4 == 0


def _matrix(values: Float) -> tuple[int, int, int, int]:
    """Address, numbers of rows and columns, and elements from one row to the next."""
    return pointer(values), *values.shape, values.strides[0] // 4

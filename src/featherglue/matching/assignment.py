"""Assignment: Sinkhorn's algorithm, mutual matches and nearest neighbors.

The optimal matching layer of SuperGlue (Sarlin et al. 2020) runs in the exponential domain: an
iteration is two matrix–vector products. Scaling factors are absorbed into the kernel before they
overflow (Schmitzer 2019, Stabilized Sparse Scaling Algorithms).

Shape legend: N0, N1 keypoints of the two images, M matches, D descriptor width.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.matching.scratch import Scratch
from featherglue.native import kernels

Float = NDArray[np.float32]
Index = NDArray[np.int64]

# Elements of a matrix–vector product. OpenBLAS runs larger products in several threads, which spin
# afterward and take the cores from the networks of the next frame.
_CHUNK_ELEMENTS = 400_000
# Row and column sums below this cause the scaling factors to be absorbed into the kernel, whose
# entries are then at most 1. It also bounds the factors, which must stay within float32.
_MIN_SUM = np.float32(1e-12)


def match_scores(
    scores: Float,
    bin_score: float,
    iterations: int,
    threshold: float,
    threads: int = 1,
    scratch: Scratch | None = None,
) -> tuple[Index, Float]:
    """Matches from a score matrix: `optimal_transport` and `mutual_matches` in one.

    Args:
        scores: (N0, N1) float32, N0 and N1 at least 1.
        bin_score: score of leaving a keypoint unmatched.
        iterations: number of Sinkhorn iterations.
        threshold: probability that a match must exceed, at least 0.
        threads: maximum number of threads. The result does not depend on it.
        scratch: buffers, if many pairs are matched.

    Returns:
        Indices (M, 2) int64 into both sets, ascending in the first; scores (M,) float32 in [0, 1].
    """
    scratch = scratch or Scratch()

    def work(size: int) -> Float:
        return scratch.array("transport", (size,), np.float32)

    compiled = kernels.match_scores(
        scores, bin_score, iterations, float(_MIN_SUM), threshold, threads, work
    )
    if compiled is not None:
        return compiled
    return mutual_matches(optimal_transport(scores, bin_score, iterations), threshold)


def optimal_transport(scores: Float, bin_score: float, iterations: int) -> Float:
    """Compute assignment probabilities with a dustbin for each image.

    Args:
        scores: (N0, N1) float32, N0 and N1 at least 1.
        bin_score: score of leaving a keypoint unmatched.
        iterations: number of Sinkhorn iterations; rows are normalized before columns.

    Returns:
        (N0+1, N1+1) float32, the exponential of SuperGlue's log assignment. Columns sum to 1, the
        dustbin column to N0; so do rows, with N1 for the dustbin, on convergence.
    """
    compiled = kernels.optimal_transport(scores, bin_score, iterations, float(_MIN_SUM))
    if compiled is not None:
        return compiled
    rows, columns = scores.shape
    row_sums = np.ones(rows + 1, np.float32)
    column_sums = np.ones(columns + 1, np.float32)
    row_sums[-1], column_sums[-1] = columns, rows
    # One matrix throughout: allocation would cost more than the arithmetic.
    kernel = np.empty((rows + 1, columns + 1), np.float32)
    u = np.zeros(rows + 1, np.float32)
    v = np.zeros(columns + 1, np.float32)
    a: Float = np.ones(rows + 1, np.float32)
    b: Float = np.ones(columns + 1, np.float32)
    sums = np.empty(rows + 1, np.float32)
    step = max(1, _CHUNK_ELEMENTS // (columns + 1))
    arrays = (kernel, sums, row_sums, a)
    chunks = [tuple(x[i : i + step] for x in arrays) for i in range(0, rows + 1, step)]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        _absorb(kernel, scores, bin_score, u, v, axis=1)
        for _ in range(iterations):
            column_products = _iterate(chunks, b)
            if sums.min() < _MIN_SUM:
                v += _safe_log(b)
                _absorb(kernel, scores, bin_score, u, v, axis=1)
                b[:] = 1
                column_products = _iterate(chunks, b)
            if column_products.min() < _MIN_SUM:
                u += _safe_log(a)
                _absorb(kernel, scores, bin_score, u, v, axis=0)
                a[:] = 1
                column_products = kernel.sum(0)
            np.divide(column_sums, column_products, b)
    kernel *= b
    kernel *= a[:, None]
    return kernel


def _iterate(chunks: list[tuple[Float, ...]], b: Float) -> Float:
    """Update the row factors and multiply the kernel by them, in one pass over the kernel.

    Args:
        chunks: rows of the kernel; their products with b, which are overwritten; their target
            sums; their factors a, which are overwritten.
        b: (N1+1,) column factors.

    Returns:
        (N1+1,) product of a and the kernel.
    """
    total: Float | None = None
    for kernel, sums, target, a in chunks:
        kernel.dot(b, sums)
        np.divide(target, sums, a)
        product = a.dot(kernel)
        total = product if total is None else total + product
    assert total is not None
    return total


def _absorb(
    kernel: Float, scores: Float, bin_score: float, u: Float, v: Float, *, axis: Literal[0, 1]
) -> None:
    """Set the kernel to exp(scores + u + v), dustbins included.

    The row potentials u (axis 1) or the column potentials v (axis 0) are overwritten, such that the
    largest entry of each row or column is 1.
    """
    kernel[:-1, :-1] = scores
    kernel[-1], kernel[:, -1] = bin_score, bin_score
    if axis == 1:
        kernel += v
        np.negative(kernel.max(1), out=u)
        kernel += u[:, None]
    else:
        kernel += u[:, None]
        np.negative(kernel.max(0), out=v)
        kernel += v
    np.exp(kernel, out=kernel)


def _safe_log(x: Float) -> Float:
    return np.log(np.maximum(x, np.float32(1e-37)))


def mutual_matches(assignment: Float, threshold: float) -> tuple[Index, Float]:
    """Select pairs of keypoints that are mutually the most probable match.

    Args:
        assignment: (N0+1, N1+1) float32 from `optimal_transport`.
        threshold: probability that a match must exceed.

    Returns:
        Indices (M, 2) int64 into both sets, ascending in the first; scores (M,) float32 in [0, 1].
    """
    return _mutual(assignment[:-1, :-1], threshold)


def _mutual(values: Float, threshold: float) -> tuple[Index, Float]:
    if values.size == 0:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    compiled = kernels.mutual_pairs(values, threshold)
    if compiled is not None:
        return compiled
    best = values.argmax(1)
    scores = values[np.arange(len(best)), best]
    kept = np.flatnonzero((scores == values.max(0)[best]) & (scores > threshold))
    # The first of equal scores in a column is kept, as by argmax.
    _, first = np.unique(best[kept], return_index=True)
    kept = kept[np.sort(first)]
    return np.stack((kept, best[kept]), 1), scores[kept]


def nearest_neighbors(
    descriptors0: Float, descriptors1: Float, ratio: float | None = None, cosine: float = -1.0
) -> tuple[Index, Float]:
    """Match descriptors by mutual nearest neighbors.

    Args:
        descriptors0, descriptors1: (N0, D) and (N1, D) float32, L2-normalized.
        ratio: maximum ratio of the distances to the nearest and to the second nearest descriptor
            (Lowe 2004); None disables the test.
        cosine: cosine similarity that a match must exceed.

    Returns:
        Indices (M, 2) int64 into both sets, ascending in the first; scores (M,) float32, the cosine
        similarities clipped to [0, 1].
    """
    if ratio is None and len(descriptors0) and len(descriptors1):
        compiled = kernels.nearest_pairs(descriptors0, descriptors1, cosine)
        if compiled is not None:
            indices, scores = compiled
            return indices, np.clip(scores, 0, 1)
    values = descriptors0 @ descriptors1.T
    indices, scores = _mutual(values, cosine)
    if ratio is not None and len(indices) and values.shape[1] > 1:
        runner_up = np.partition(values[indices[:, 0]], -2, axis=1)[:, -2]
        distance, second = 2 - 2 * np.minimum(scores, 1), 2 - 2 * np.minimum(runner_up, 1)
        kept = distance < ratio**2 * second
        indices, scores = indices[kept], scores[kept]
    return indices, np.clip(scores, 0, 1)

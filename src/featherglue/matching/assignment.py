"""From a score matrix to matches: optimal transport and mutual checks, in NumPy.

The optimal matching layer of SuperGlue (Sarlin et al. 2020), in the exponential domain: an
iteration is two matrix–vector products, with the potentials absorbed before they could overflow
(Schmitzer 2019, Stabilized Sparse Scaling Algorithms for Entropy Regularized Transport Problems).

Shape legend: N0, N1 keypoints of the two images.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
Index = NDArray[np.int64]

# Numbers that are multiplied with a vector at once. OpenBLAS takes larger matrices in threads,
# which wait actively afterwards and keep the cores from the networks of the next frame.
_AT_ONCE = 400_000
# Sums below this have the scaling factors absorbed into the kernel, whose entries are at most 1
# then. It bounds the factors too: they are what a row or a column shall sum up to, over such sums;
# float32 reaches from 1e-38 to 3e38.
_SMALL = np.float32(1e-12)


def optimal_transport(scores: Float, bin_score: float, iterations: int) -> Float:
    """Assignment probabilities with a dustbin on each side.

    Args:
        scores: (N0, N1), N0 and N1 at least 1. bin_score: score of leaving a keypoint unmatched.
        iterations: of Sinkhorn, rows before columns.

    Returns:
        (N0+1, N1+1) float32: the published log assignment, exponentiated. Columns sum to 1 after
        the last iteration, the dustbin's column to N0; rows do so when converged.
    """
    rows, columns = scores.shape
    row_sums = np.ones(rows + 1, np.float32)
    column_sums = np.ones(columns + 1, np.float32)
    row_sums[-1], column_sums[-1] = columns, rows
    # One array throughout: what a frame takes and gives back costs more than the arithmetic.
    kernel = np.empty((rows + 1, columns + 1), np.float32)
    u = np.zeros(rows + 1, np.float32)
    v = np.zeros(columns + 1, np.float32)
    _absorb(kernel, scores, bin_score, u, v, axis=1)
    a: Float = np.ones(rows + 1, np.float32)
    b: Float = np.ones(columns + 1, np.float32)
    sums = np.empty(rows + 1, np.float32)
    step = max(1, _AT_ONCE // (columns + 1))
    arrays = (kernel, sums, row_sums, a)
    parts = [tuple(x[i : i + step] for x in arrays) for i in range(0, rows + 1, step)]
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for _ in range(iterations):
            found = _iterate(parts, b)
            if sums.min() < _SMALL:
                v += _safe_log(b)
                _absorb(kernel, scores, bin_score, u, v, axis=1)
                b[:] = 1
                found = _iterate(parts, b)
            if found.min() < _SMALL:
                u += _safe_log(a)
                _absorb(kernel, scores, bin_score, u, v, axis=0)
                a[:] = 1
                found = kernel.sum(0)
            np.divide(column_sums, found, b)
    kernel *= b
    kernel *= a[:, None]
    return kernel


def _iterate(parts: list[tuple[Float, ...]], b: Float) -> Float:
    """Half of an iteration, and what the other half starts from, reading the kernel once.

    Args:
        parts: of the rows: the kernel; `sums`, set to the kernel times b (where one is next to
            nothing, nothing else counts); what they shall be; a, set to that over `sums`.

    Returns:
        a times the kernel.
    """
    found: Float | None = None
    for part, sums, wanted, a in parts:
        part.dot(b, sums)
        np.divide(wanted, sums, a)
        columns = a.dot(part)
        found = columns if found is None else found + columns
    assert found is not None
    return found


def _absorb(
    kernel: Float, scores: Float, bin_score: float, u: Float, v: Float, *, axis: Literal[0, 1]
) -> None:
    """Set the kernel to exp(couplings + u + v), with the row potentials u (axis 1) or the column
    potentials v (axis 0) chosen anew, so that the largest entry of each row or column is 1."""
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
    """Pairs of keypoints that are each other's best, above a probability.

    Args:
        assignment: (N0+1, N1+1) from `optimal_transport`.

    Returns:
        indices (M, 2) int64 into both sets, ascending in the first; scores (M,) in [0, 1].
    """
    return _mutual(assignment[:-1, :-1], threshold)


def _mutual(values: Float, threshold: float) -> tuple[Index, Float]:
    if values.size == 0:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    best = values.argmax(1)
    scores = values[np.arange(len(best)), best]
    kept = np.flatnonzero((scores == values.max(0)[best]) & (scores > threshold))
    # Of equal scores in a column the first counts, as with argmax.
    _, first = np.unique(best[kept], return_index=True)
    kept = kept[np.sort(first)]
    return np.stack((kept, best[kept]), 1), scores[kept]


def nearest_neighbours(
    descriptors0: Float, descriptors1: Float, ratio: float | None = None, cosine: float = -1.0
) -> tuple[Index, Float]:
    """Mutual nearest neighbours of L2-normalised descriptors.

    Args:
        descriptors0: (N0, D). descriptors1: (N1, D).
        ratio: a match needs a distance below `ratio` times the second nearest's (Lowe 2004).
        cosine: lowest cosine similarity of a match.

    Returns:
        indices (M, 2) int64, scores (M,): cosine similarities, clipped to [0, 1].
    """
    values = descriptors0 @ descriptors1.T
    indices, scores = _mutual(values, cosine)
    if ratio is not None and len(indices) and values.shape[1] > 1:
        two = np.partition(values[indices[:, 0]], -2, axis=1)[:, -2]
        distance, second = 2 - 2 * np.minimum(scores, 1), 2 - 2 * np.minimum(two, 1)
        kept = distance < ratio**2 * second
        indices, scores = indices[kept], scores[kept]
    return indices, np.clip(scores, 0, 1)

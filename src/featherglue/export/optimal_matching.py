"""SuperGlue's optimal matching layer in an ONNX graph: Sinkhorn iterations and mutual matches.

The iterations run in the exponential domain, as in `matching.assignment`: half an iteration is one
matrix–vector product.

Shape legend: K places for the keypoints of each image.
"""

from __future__ import annotations

import numpy as np

from featherglue.export.builder import Graph

# Number of iterations after which the scaling factors are absorbed into the kernel.
_ABSORB_AFTER = 25
_MIN_SUM = 1e-37  # float32 is denormal below
_MASKED = -1e9  # added to the scores of unused places


def optimal_transport(
    g: Graph, scores: str, used0: str, used1: str, bin_score: float, iterations: int
) -> str:
    """Assignment probabilities (K+1, K+1); those of the dustbins and of unused places are 0.

    Args:
        scores: (K, K) float32.
        used0, used1: (K,) float32, 1 for the used places, 0 for others.
        bin_score: score of leaving a keypoint unmatched.
        iterations: number of Sinkhorn iterations; rows are normalized before columns.
    """
    axis = g.integers(0)
    count0, count1 = (g.op("ReduceSum", used, axis, keepdims=1) for used in (used0, used1))
    row_sums = _column(g, used0, count1)
    column_sums = _row(g, used1, count0)
    ones = _column(g, used1, g.constant("one_entry", np.ones(1, np.float32)))
    pads = g.integers(0, 0, 1, 1)
    logits = g.op("Pad", scores, pads, g.number(bin_score), mode="constant")
    # Columns of unused places must not be the highest of a row.
    unused = g.op("Sub", ones, g.number(1.0))
    masked = g.op("Mul", unused, g.number(-_MASKED))
    logits = g.op("Add", logits, g.op("Reshape", masked, g.integers(1, -1)))
    kernel = _kernel(g, logits)
    column, row = g.integers(-1, 1), g.integers(1, -1)
    a, b, tiny = "", ones, g.number(_MIN_SUM)
    for i in range(iterations):
        if i and i % _ABSORB_AFTER == 0:
            potential = g.op("Reshape", g.op("Log", g.op("Max", b, tiny)), row)
            logits = g.op("Add", logits, potential)
            kernel, b = _kernel(g, logits), ones
        sums = g.op("Max", g.op("MatMul", kernel, b), tiny)
        a = g.op("Div", row_sums, sums)
        sums = g.op("MatMul", g.op("Reshape", a, row), kernel)
        b = g.op("Reshape", g.op("Div", column_sums, g.op("Max", sums, tiny)), column)
    a = g.op("Mul", a, _column(g, used0, g.constant("no_entry", np.zeros(1, np.float32))))
    b = g.op("Mul", b, _column(g, used1, g.constant("no_entry", np.zeros(1, np.float32))))
    return g.op("Mul", g.op("Mul", kernel, g.op("Reshape", b, row)), a)


def mutual_matches(g: Graph, assignment: str, count: int, threshold: float) -> tuple[str, str]:
    """Matches (K,) int64, −1 for none, and confidences (K,) float32, 0 for none.

    Args:
        assignment: (K+1, K+1) from `optimal_transport`.
        count: K.
        threshold: probability that a match must exceed.
    """
    best = g.op("ArgMax", assignment, axis=1, keepdims=0)
    back = g.op("ArgMax", assignment, axis=0, keepdims=0)
    scores = g.op("ReduceMax", assignment, axes=[1], keepdims=0)
    places = g.constant("places", np.arange(count + 1))
    mutual = g.op("Equal", g.op("Gather", back, best, axis=0), places)
    matched = g.op("And", mutual, g.op("Greater", scores, g.number(threshold)))
    none = g.integer(-1)
    results = g.op("Where", matched, best, none), g.op("Where", matched, scores, g.number(0.0))
    first, last, axis = g.integers(0), g.integers(count), g.integers(0)
    matches, confidence = (g.op("Slice", value, first, last, axis) for value in results)
    return matches, confidence


def _kernel(g: Graph, logits: str) -> str:
    """Exponentials of logits, such that the highest of each row is 1."""
    return g.op("Exp", g.op("Sub", logits, g.op("ReduceMax", logits, axes=[1], keepdims=1)))


def _column(g: Graph, values: str, last: str) -> str:
    return g.op("Reshape", g.op("Concat", values, last, axis=0), g.integers(-1, 1))


def _row(g: Graph, values: str, last: str) -> str:
    return g.op("Reshape", g.op("Concat", values, last, axis=0), g.integers(1, -1))

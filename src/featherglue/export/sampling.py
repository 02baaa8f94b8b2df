"""Subpixel positions and descriptors of keypoints in an ONNX graph.

Descriptors are gathered and weighted, because not all runtimes have GridSample.

Shape legend: Hc×Wc cells, K keypoints, D descriptor width.
"""

from __future__ import annotations

import numpy as np

from featherglue.artifact.layers import CELL
from featherglue.export.builder import FLOAT, INT64, Graph
from featherglue.export.detection import ScoreMap, Sides
from featherglue.options import Sampling


def pixel_positions(g: Graph, x: str, y: str) -> str:
    """Positions (K, 2) float32 of pixels x and y (K,) int64."""
    axis = g.integers(1)
    columns = [g.op("Unsqueeze", value, axis) for value in (x, y)]
    return g.op("Cast", g.op("Concat", *columns, axis=1), to=FLOAT)


def subpixel_offsets(g: Graph, scores: ScoreMap, x: str, y: str, sides: Sides) -> str:
    """Offsets (K, 2) float32 from maxima to the peaks of parabolas through the log scores.

    As `matching.keypoints.subpixel_offsets`.
    """
    lines = []
    steps = g.constant("steps", np.array([[-1], [0], [1]], np.int64))
    zero, one = g.integer(0), g.integer(1)
    cell = g.integer(CELL)
    for moving, cells in ((x, sides.columns), (y, sides.rows)):
        last = g.op("Sub", g.op("Mul", cells, cell), one)
        lines.append(g.op("Min", g.op("Max", g.op("Add", moving, steps), zero), last))
    at = g.op(
        "Concat",
        scores.scores(lines[0], g.op("Add", y, g.op("Mul", steps, zero))),
        scores.scores(g.op("Add", x, g.op("Mul", steps, zero)), lines[1]),
        axis=0,
    )
    logs = g.op("Log", g.op("Max", at, g.number(1e-8)))
    before, center, after = g.split(
        "Split",
        g.op("Reshape", logs, g.integers(2, 3, -1)),
        g.integers(1, 1, 1),
        outputs=3,
        axis=1,
    )
    slope = g.op("Mul", g.op("Sub", after, before), g.number(0.5))
    curve = g.op("Sub", g.op("Sub", g.op("Mul", center, g.number(2.0)), before), after)
    offset = g.op("Div", slope, g.op("Max", curve, g.number(1e-6)))
    offset = g.op("Max", g.op("Min", offset, g.number(0.5)), g.number(-0.5))
    return g.op("Transpose", g.op("Squeeze", offset, g.integers(1)), perm=[1, 0])


def sampled_descriptors(
    g: Graph, descriptors: str, keypoints: str, sides: Sides, sampling: Sampling
) -> str:
    """Descriptors (K, D) of keypoints (K, 2), as `matching.keypoints.sample_descriptors`.

    Args:
        descriptors: (1, Hc, Wc, D), not normalized.
        keypoints: (K, 2) float32 pixels.
    """
    one, zero = g.number(1.0), g.number(0.0)
    axis = g.integers(0)
    cells = g.op(
        "Cast",
        g.op("Concat", *(g.op("Unsqueeze", s, axis) for s in (sides.columns, sides.rows)), axis=0),
        to=FLOAT,
    )
    last = g.op("Sub", cells, one)
    at = g.op("Mul", g.op("Sub", keypoints, g.number(3.5)), g.number(1 / CELL))
    if sampling == "published":
        size = g.number(float(CELL))
        stretch = g.op("Sub", g.op("Mul", cells, size), g.number(4.5))
        at = g.op("Mul", at, g.op("Div", g.op("Mul", last, size), stretch))
    at = g.op("Min", g.op("Max", at, zero), last)
    low = g.op("Min", g.op("Floor", at), g.op("Max", g.op("Sub", last, one), zero))
    high = g.op("Min", g.op("Add", low, one), last)
    far = g.op("Sub", at, low)
    x, y = _corners(g, low, high)
    weight_x, weight_y = _corners(g, g.op("Sub", one, far), far)
    columns = g.op("Slice", cells, g.integers(0), g.integers(1), g.integers(0))
    place = g.op("Add", g.op("Mul", y, columns), x)  # (4, K)
    width = g.op("Gather", g.op("Shape", descriptors), g.integers(3), axis=0)
    table = g.op("Reshape", descriptors, g.op("Concat", g.integers(-1), width, axis=0))
    corners = g.op("Gather", table, g.op("Cast", place, to=INT64), axis=0)  # (4, K, D)
    weights = g.op("Div", g.op("Mul", weight_y, weight_x), _length(g, corners, keepdims=0))
    weights = g.op("Unsqueeze", weights, g.integers(2))
    sampled = g.op("ReduceSum", g.op("Mul", corners, weights), axis, keepdims=0)
    return g.op("Div", sampled, _length(g, sampled, keepdims=1))


def _corners(g: Graph, low: str, high: str) -> tuple[str, str]:
    """x and y (4, K) of the corners between low and high (K, 2): row by row."""
    both = g.op("Concat", *(g.op("Unsqueeze", v, g.integers(0)) for v in (low, high)), axis=0)
    x, y = g.split("Split", both, g.integers(1, 1), outputs=2, axis=2)
    x, y = (g.op("Squeeze", v, g.integers(2)) for v in (x, y))
    return (
        g.op("Gather", x, g.integers(0, 1, 0, 1), axis=0),
        g.op("Gather", y, g.integers(0, 0, 1, 1), axis=0),
    )


def _length(g: Graph, vectors: str, keepdims: int) -> str:
    """Euclidean length over the last axis, above 0."""
    squares = g.op("ReduceSumSquare", vectors, axes=[-1], keepdims=keepdims)
    return g.op("Max", g.op("Sqrt", squares), g.number(1e-12))

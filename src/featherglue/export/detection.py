"""Detection of keypoints in an ONNX graph: non-maximum suppression, borders, threshold, top-k.

Shape legend: H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, K keypoints.
Values that are not static are computed from the shape of the image when the graph runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from featherglue.artifact.layers import CELL
from featherglue.export.builder import FLOAT, INT64, Graph
from featherglue.export.extractor import softmax
from featherglue.options import ProcessingConfig

_RECOVERIES = 2  # iterations of non-maximum suppression after the first, as published


@dataclass(frozen=True)
class Sides:
    """Sizes of an image as scalars of a graph: float32, and int64 for the sizes in cells.

    Attributes:
        width, height: px, of the image as given.
        columns, rows: number of cells of the padded image.
    """

    width: str
    height: str
    columns: str
    rows: str


class ScoreMap:
    """The scores of all pixels in a graph. Non-maximum suppression is exactly as published.

    Args:
        g: the graph.
        logits: (1, 64, Hc, Wc) float32, minus the logit of "no keypoint".
        sides: sizes of the image.
        processing: settings; `nms_radius` and `remove_borders` apply.

    Attributes:
        candidates: (H·W,) float32, scores of the pixels; 0 where no keypoint may lie.
    """

    def __init__(self, g: Graph, logits: str, sides: Sides, processing: ProcessingConfig) -> None:
        self.g = g
        cell = g.integer(CELL)
        self._width = g.op("Mul", sides.columns, cell)
        scores = g.op("DepthToSpace", softmax(g, logits), blocksize=CELL, mode="CRD")
        x = _range(g, self._width)
        y = g.op("Unsqueeze", _range(g, g.op("Mul", sides.rows, cell)), g.integers(1))
        kept = scores
        if processing.nms_radius > 0:
            kept = g.op("Mul", kept, self._suppress(scores, processing.nms_radius))
        for position, side in ((x, sides.width), (y, sides.height)):
            kept = g.op("Mul", kept, _inside(g, position, side, processing.remove_borders))
        flat = g.integers(-1)
        self.candidates = g.op("Reshape", kept, flat)
        self._scores = g.op("Reshape", scores, flat)

    def _suppress(self, scores: str, radius: int) -> str:
        """Mask (1, 1, H, W) float32 of the maxima; see `matching.nms`."""
        g, one = self.g, self.g.number(1.0)

        def is_maximum(values: str) -> str:
            return g.op("Cast", g.op("Equal", values, self._dilate(values, radius)), to=FLOAT)

        maxima = is_maximum(scores)
        for _ in range(_RECOVERIES):
            alive = g.op("Sub", one, self._dilate(maxima, radius))
            new = g.op("Mul", alive, is_maximum(g.op("Mul", scores, alive)))
            maxima = g.op("Add", maxima, new)
        return maxima

    def _dilate(self, x: str, radius: int) -> str:
        """Maximum over a square window, one axis after the other.

        Runtimes distribute channels over threads, so the rows become 8 channels.
        """
        g, side = self.g, 2 * radius + 1
        down: dict[str, Any] = {"kernel_shape": [side, 1], "pads": [radius, 0, radius, 0]}
        across: dict[str, Any] = {"kernel_shape": [1, side], "pads": [0, radius, 0, radius]}
        x = g.op("MaxPool", x, strides=[1, 1], **down)
        x = g.op("Reshape", x, g.integers(0, CELL, -1, 0))
        x = g.op("MaxPool", x, strides=[1, 1], **across)
        return g.op("Reshape", x, g.integers(0, 1, -1, 0))

    def position(self, candidate: str) -> tuple[str, str]:
        """Pixel x and y (K,) int64 of candidates (K,) int64."""
        g = self.g
        y = g.op("Div", candidate, self._width)
        return g.op("Sub", candidate, g.op("Mul", y, self._width)), y

    def scores(self, x: str, y: str) -> str:
        """Scores (…) float32 at pixels x and y (…) int64."""
        g = self.g
        pixel = g.op("Add", g.op("Mul", y, self._width), x)
        return g.op("Gather", self._scores, pixel, axis=0)


def top_candidates(
    g: Graph, scores: ScoreMap, count: int, processing: ProcessingConfig
) -> tuple[str, str, str, str]:
    """Add the thresholds and the selection of the strongest candidates to a graph.

    Returns:
        x and y (K,) int64, scores (K,) float32, strongest first, and a mask (K,) float32 of the
        used places. Unused places have score 0.
    """
    # There may be fewer candidates than places.
    padded = g.op("Concat", scores.candidates, g.constant("no_scores", np.zeros(count)), axis=0)
    values, index = g.split("TopK", padded, g.integers(count), outputs=2, axis=0)
    above = g.op("Greater", values, g.number(processing.keypoint_threshold))
    if processing.has_high_threshold:
        early = np.arange(count) < processing.high_threshold_after
        high = g.op("Greater", values, g.number(processing.high_keypoint_threshold))
        above = g.op("And", above, g.op("Or", high, g.constant("early", early)))
    used = g.op("Cast", above, to=FLOAT)
    index = g.op("Mul", index, g.op("Cast", above, to=INT64))
    x, y = scores.position(index)
    return x, y, g.op("Mul", values, used), used


def _inside(g: Graph, position: str, side: str, border: int) -> str:
    """Mask float32 of the positions (px) at least `border` away from both ends of a side."""
    width = g.number(float(border))
    after = g.op("GreaterOrEqual", position, width)
    before = g.op("Less", position, g.op("Sub", side, width))
    return g.op("Cast", g.op("And", after, before), to=FLOAT)


def _range(g: Graph, count: str) -> str:
    """0, 1, …, count − 1 as float32, for a scalar int64."""
    steps = g.op("Range", g.integer(0), count, g.integer(1))
    return g.op("Cast", steps, to=FLOAT)

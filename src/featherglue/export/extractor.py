"""The ONNX graph of SuperPoint, optimized for CPUs.

Shape legend: H×W pixels (multiples of 8), Hc = H/8, Wc = W/8 cells, D descriptor width.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import Arrays
from featherglue.artifact.layers import CELL, ENCODER, context_names, pooled_layers
from featherglue.export.builder import FLOAT, UINT8, Graph
from featherglue.export.quantization import NOT_QUANTIZED, Quantizer

Float = NDArray[np.float32]


def extractor_graph(arrays: Arrays, quantization: Quantization = NOT_QUANTIZED) -> Graph:
    """The graph of an extractor without batch normalization.

    Input: `image` (1, 1, H, W) uint8. Outputs: `scores` (1, 1, H, W) in [0, 1] and `descriptors`
    (1, Hc, Wc, D) without normalization, both float32.
    """
    g = Graph("extractor")
    builder = ExtractorBuilder(arrays, g, Quantizer(g, quantization))
    x = builder.encode(g.input("image", UINT8, [1, 1, "height", "width"]))
    logits = builder.logits(builder.conv("Pa", x))
    scores = g.op("DepthToSpace", softmax(g, logits), blocksize=8, mode="CRD")
    descriptors = builder.descriptors(x)
    width = arrays["extractor.convDb.weight"].shape[0]
    g.output(scores, "scores", [1, 1, "height", "width"])
    g.output(descriptors, "descriptors", [1, "rows", "columns", width])
    return g


class ExtractorBuilder:
    """Adds the layers of an extractor to a graph."""

    def __init__(self, arrays: Arrays, g: Graph, quantizer: Quantizer) -> None:
        self.arrays, self.g, self.quantizer = arrays, g, quantizer

    def encode(self, image: str) -> str:
        """Image (1, 1, H, W) → encoder output (1, C, Hc, Wc)."""
        first = f"extractor.conv{ENCODER[0]}"
        pooled = pooled_layers(_stride(self._weights(ENCODER[0])[0]))
        if self.quantizer.is_quantized(first):
            x, scale = self.quantizer.image(image, first), 1.0
        else:
            x, scale = self.g.op("Cast", image, to=FLOAT), 255.0
        for i, name in enumerate(ENCODER):
            x = self.conv(name, x, divide=scale if i == 0 else 1.0)
            if name in pooled:
                if self.quantizer.is_integer(f"extractor.conv{name}"):
                    x = self.quantizer.activation(x, f"extractor.conv{ENCODER[i + 1]}")
                x = self.g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        return x

    def logits(self, x: str) -> str:
        """Hidden layer of the detector → logits of the pixels minus the logit of "no keypoint"."""
        name = "extractor.convPb"
        if not self.quantizer.is_integer(name) and not self.quantizer.is_quantized(
            f"{name}.output"
        ):
            weight, bias = self._weights("Pb")
            return self._conv("Pb", x, weight[:-1] - weight[-1:], bias[:-1] - bias[-1])
        logits = self.conv("Pb", x, relu=False)
        cells = self.g.constant("cells", [CELL**2, 1])
        kept, none = self.g.split("Split", logits, cells, outputs=2, axis=1)
        return self.g.op("Sub", kept, none)

    def descriptors(self, x: str) -> str:
        """Encoder output (1, C, Hc, Wc) → descriptors (1, Hc, Wc, D), not normalized."""
        x = self.conv("Db", self.conv("Da", self.add_context(x)), relu=False)
        return self.g.op("Transpose", x, perm=[0, 2, 3, 1])

    def add_context(self, x: str, level: int = 1) -> str:
        """Add the projected and upsampled output of the levels below, as `SuperPoint` does."""
        first, second, projection = context_names(level)
        if f"extractor.conv{first}.weight" not in self.arrays:
            return x
        g = self.g
        # Padding at the end keeps the last row or column of a map with an odd side.
        y = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1])
        y = self.add_context(self.conv(second, self.conv(first, y)), level + 1)
        y = self.conv(projection, y, relu=False)
        scales = g.constant("scales", np.array([1, 1, 2, 2], np.float32), halve=False)
        y = g.op("Resize", y, "", scales, mode="linear")
        sides = g.op("Slice", g.op("Shape", x), g.constant("two", [2]), g.constant("four", [4]))
        origin, axes = g.constant("origin", [0, 0]), g.constant("axes", [2, 3])
        return g.op("Add", x, g.op("Slice", y, origin, sides, axes))

    def conv(self, name: str, x: str, relu: bool = True, divide: float = 1.0) -> str:
        """A convolution with an optional ReLU, quantized as the artifact defines.

        Args:
            divide: divisor of the weights.
        """
        weight, bias = self._weights(name)
        x = self._conv(name, x, weight / np.float32(divide), bias)
        x = self.g.op("Relu", x) if relu else x
        return self.quantizer.activation(x, f"extractor.conv{name}.output")

    def _conv(self, name: str, x: str, weight: Float, bias: Float) -> str:
        layer, size = f"extractor.conv{name}", weight.shape[2]
        x = self.quantizer.activation(x, layer)
        if self.quantizer.is_integer(layer):
            w, b = self.quantizer.weights(layer, bias)
        else:
            w = self.g.constant(f"conv{name}.weight", weight)
            b = self.g.constant(f"conv{name}.bias", bias)
        stride = _stride(weight)
        return self.g.op(
            "Conv",
            x,
            w,
            b,
            name=f"conv{name}",
            kernel_shape=[size, size],
            pads=[(size - stride + 1) // 2] * 4,
            strides=[stride, stride],
        )

    def _weights(self, name: str) -> tuple[Float, Float]:
        layer = f"extractor.conv{name}"
        return self.arrays[f"{layer}.weight"], self.arrays[f"{layer}.bias"]


def _stride(weight: Float) -> int:
    """Stride of a convolution: 2 for the 4×4 kernel of a stem of 2, else 1."""
    return 2 if weight.shape[2] == 4 else 1


def softmax(g: Graph, logits: str) -> str:
    """Probabilities (1, 64, Hc, Wc) from logits minus the logit of "no keypoint".

    The sum over the channels is a 1×1 convolution with ones, so all operations keep the memory
    layout of convolutions. That is three times as fast as Softmax, which transposes.
    """
    return g.op("Div", *softmax_terms(g, logits))


def softmax_terms(g: Graph, logits: str) -> tuple[str, str]:
    """Numerators (1, 64, Hc, Wc) and denominator (1, 1, Hc, Wc) of the probabilities."""
    powers = g.op("Exp", g.op("Min", logits, g.constant("largest", 40.0)))
    ones = g.constant("sum.weight", np.ones((1, 64, 1, 1), np.float32))
    one = g.constant("sum.bias", np.ones(1, np.float32))
    return powers, g.op("Conv", powers, ones, one, kernel_shape=[1, 1])

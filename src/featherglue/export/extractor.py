"""SuperPoint as an ONNX graph, written for speed on a CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import Arrays
from featherglue.artifact.layers import CELL, ENCODER, pooled_layers
from featherglue.export.builder import FLOAT, UINT8, Graph
from featherglue.export.quantization import NOT_QUANTIZED, Quantizer

Float = NDArray[np.float32]


def extractor_graph(arrays: Arrays, quantization: Quantization = NOT_QUANTIZED) -> Graph:
    """image (1, 1, H, W) uint8 → scores (1, 1, H, W), descriptors (1, Hc, Wc, D)."""
    g = Graph("extractor")
    builder = _ExtractorBuilder(arrays, g, Quantizer(g, quantization))
    x = builder.encode(g.input("image", UINT8, [1, 1, "height", "width"]))
    logits = builder.logits(builder.conv("Pa", x))
    scores = g.op("DepthToSpace", _softmax(g, logits), blocksize=8, mode="CRD")
    descriptors = builder.conv("Db", builder.conv("Da", x), relu=False)
    descriptors = g.op("Transpose", descriptors, perm=[0, 2, 3, 1])
    width = arrays["extractor.convDb.weight"].shape[0]
    g.output(scores, "scores", [1, 1, "height", "width"])
    g.output(descriptors, "descriptors", [1, "rows", "columns", width])
    return g


class _ExtractorBuilder:
    def __init__(self, arrays: Arrays, g: Graph, quantizer: Quantizer) -> None:
        self.arrays, self.g, self.quantizer = arrays, g, quantizer

    def encode(self, image: str) -> str:
        """The image → the features (1, C, Hc, Wc) that both heads take."""
        first = f"extractor.conv{ENCODER[0]}"
        followed = pooled_layers(_stride(self._weights(ENCODER[0])[0]))
        if self.quantizer.holds(first):
            x, scale = self.quantizer.image(image, first), 1.0
        else:
            x, scale = self.g.op("Cast", image, to=FLOAT), 255.0
        for i, name in enumerate(ENCODER):
            x = self.conv(name, x, divide=scale if i == 0 else 1.0)
            if name in followed:
                if self.quantizer.is_integer(f"extractor.conv{name}"):
                    x = self.quantizer.activation(x, f"extractor.conv{ENCODER[i + 1]}")
                x = self.g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        return x

    def logits(self, x: str) -> str:
        """What the detector takes → every logit less the one of "no keypoint": see _softmax."""
        name = "extractor.convPb"
        if not self.quantizer.is_integer(name) and not self.quantizer.holds(f"{name}.output"):
            weight, bias = self._weights("Pb")
            return self._conv("Pb", x, weight[:-1] - weight[-1:], bias[:-1] - bias[-1])
        logits = self.conv("Pb", x, relu=False)
        cells = self.g.constant("cells", [CELL**2, 1])
        kept, none = self.g.split("Split", logits, cells, outputs=2, axis=1)
        return self.g.op("Sub", kept, none)

    def conv(self, name: str, x: str, relu: bool = True, divide: float = 1.0) -> str:
        """A convolution, its output rounded where it is taken as an `.output`.

        Args:
            divide: what the weights are divided by.
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
    """2 for the 4×4 kernel of a stem that looks at every second pixel."""
    return 2 if weight.shape[2] == 4 else 1


def _softmax(g: Graph, logits: str) -> str:
    """Probabilities (1, 64, Hc, Wc) of the cells' pixels, from logits less that of "no keypoint".

    A softmax over 65 channels after a transposition takes three times as long as this: the sum is
    a convolution with ones, and nothing leaves the layout of convolutions.
    """
    powers = g.op("Exp", g.op("Min", logits, g.constant("largest", 40.0)))
    ones = g.constant("sum.weight", np.ones((1, 64, 1, 1), np.float32))
    one = g.constant("sum.bias", np.ones(1, np.float32))
    return g.op("Div", powers, g.op("Conv", powers, ones, one, kernel_shape=[1, 1]))

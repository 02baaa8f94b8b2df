"""Quantization in ONNX graphs by pairs of QuantizeLinear and DequantizeLinear nodes (QDQ).

Runtimes fuse them with the layer between them into integer kernels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import LinearTensor, Quantization, group_of
from featherglue.artifact.integer_layers import why_float
from featherglue.config import ActivationStorage
from featherglue.export.builder import FLOAT, Graph

Float = NDArray[np.float32]
Order = NDArray[np.int64] | slice
"""Order of the rows or columns of a weight."""
NOT_QUANTIZED = Quantization()


class Quantizer:
    """Adds the quantization of a model to a graph.

    Args:
        g: the graph.
        quantization: codes of the weights and quantization of the activations.
    """

    def __init__(self, g: Graph, quantization: Quantization) -> None:
        self.g, self.quantization = g, quantization
        # Name of the rounded value, by value, quantization and factor.
        self._rounded: dict[tuple[str, ActivationStorage, float], str] = {}
        # Quantization of the values that are already rounded.
        self._quantized_as: dict[str, ActivationStorage] = {}

    def is_quantized(self, *names: str) -> bool:
        """Whether any of these activations is quantized."""
        return any(name in self.quantization.activations for name in names)

    def is_integer(self, layer: str) -> bool:
        """Whether a layer runs in integer arithmetic."""
        return not why_float(layer, self.quantization)

    def activation(self, x: str, name: str, factor: float = 1.0) -> str:
        """`x` times `factor`, rounded as the activation `name`; `x` if that is not quantized.

        The caller applies `factor` itself if the activation is not quantized.
        """
        activation = self.quantization.activations.get(name)
        if activation is None or (factor == 1 and self._quantized_as.get(x) == activation):
            return x
        key = x, activation, factor
        if key not in self._rounded:
            self._rounded[key] = self._round(x, activation, factor)
            if factor == 1:
                self._quantized_as[self._rounded[key]] = activation
        return self._rounded[key]

    def _round(self, x: str, activation: ActivationStorage, factor: float) -> str:
        g = self.g
        zero = self._zero(activation)
        if activation.bits < 8:  # QuantizeLinear saturates at 255, above the range of these bits
            highest = (2**activation.bits - 1 - activation.zero_point) * activation.scale
            x = g.op("Min", x, g.constant(f"highest_{highest!r}", highest))
        codes = g.op("QuantizeLinear", x, self._scale(activation.scale), zero)
        return g.op("DequantizeLinear", codes, self._scale(activation.scale * factor), zero)

    def image(self, image: str, name: str) -> str:
        """A gray uint8 image as floats in [0, 1], rounded as the activation `name`."""
        activation = self.quantization.activations[name]
        gray_levels = np.float32(activation.scale) == np.float32(1 / 255)
        if gray_levels and activation.zero_point == 0 and activation.bits == 8:
            scale, zero = self._scale(activation.scale), self._zero(activation)
            scaled = self.g.op("DequantizeLinear", image, scale, zero)
            self._quantized_as[scaled] = activation
            return scaled
        x = self.g.op("Cast", image, to=FLOAT)
        return self.activation(self.g.op("Mul", x, self.g.constant("gray", 1 / 255)), name)

    def weights(
        self,
        layer: str,
        bias: Float,
        *,
        rows: Order = slice(None),
        columns: Order = slice(None),
        factor: float = 1.0,
        activation: str = "",
    ) -> tuple[str, str]:
        """Weight and bias of a layer in integer arithmetic.

        Args:
            layer: name of the layer.
            bias: (out,) float32.
            rows, columns: rows and columns of the weight, in order.
            factor: factor of the output.
            activation: name of the input of these columns; "" for that of the layer.
        """
        code = self.quantization.tensors[f"{layer}.weight"]
        assert isinstance(code, LinearTensor)
        activation = activation or layer
        scale = code.scale.astype(np.float64) * factor
        if len(scale) > 1:
            scale = scale[group_of(len(code.codes), len(scale))][rows]
        scale32 = scale.astype(np.float32)
        steps = scale32 * np.float32(self.quantization.activations[activation].scale)
        integer_bias = np.rint(bias.astype(np.float64)[rows] * factor / steps)
        limit = np.iinfo(np.int32)
        w = self._constant(
            f"{activation}.weight", code.codes[rows][:, columns], scale32, int(code.zero[0])
        )
        b = self._constant(
            f"{activation}.bias",
            np.clip(integer_bias, limit.min, limit.max).astype(np.int32),
            steps,
            0,
        )
        return w, b

    def _constant(self, name: str, codes: NDArray[np.integer], scale: Float, zero: int) -> str:
        """An integer constant with one scale, or with one for each entry of the first axis."""
        g = self.g
        per_channel = len(scale) > 1
        zeros = np.full(scale.shape, zero, codes.dtype)
        return g.op(
            "DequantizeLinear",
            g.constant(f"{name}.codes", np.ascontiguousarray(codes)),
            g.constant(f"{name}.scale", scale if per_channel else scale.reshape(()), halve=False),
            g.constant(f"{name}.zero", zeros if per_channel else zeros.reshape(())),
            name=name,
            **({"axis": 0} if per_channel else {}),
        )

    def _scale(self, scale: float) -> str:
        return self.g.constant(f"scale_{scale!r}", scale)

    def _zero(self, activation: ActivationStorage) -> str:
        zero = activation.zero_point
        return self.g.constant(f"zero_{zero}", np.array(zero, np.uint8))

"""The ONNX graph of SuperGlue, optimized for CPUs.

Shape legend: N keypoints of each image, C feature width, D descriptor width, h heads, d head width.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import Arrays
from featherglue.config import AttentionConfig, SuperGlueConfig
from featherglue.export.builder import FLOAT, Graph
from featherglue.export.quantization import NOT_QUANTIZED, Order, Quantizer

Float = NDArray[np.float32]


def matcher_graph(
    arrays: Arrays, config: SuperGlueConfig, quantization: Quantization = NOT_QUANTIZED
) -> Graph:
    """The graph of a matcher without batch normalization. The batch axis holds both images.

    Inputs, float32: `keypoints` (2, N, 3), normalized (x, y) and score; `descriptors` (2, N, D),
    L2-normalized; `bias` (2, 1, N), added to the logits of attention to these keypoints: 0, or a
    large negative number for padding. Output: `scores` (N, N) float32.
    """
    g = Graph("matcher")
    scores = MatcherBuilder(arrays, config, g, Quantizer(g, quantization)).scores(
        g.input("keypoints", FLOAT, [2, "count", 3]),
        g.input("descriptors", FLOAT, [2, "count", config.descriptor_dim]),
        g.input("bias", FLOAT, [2, 1, "count"]),
    )
    g.output(scores, "scores", ["count", "count"])
    return g


class MatcherBuilder:
    """Adds a matcher to a graph. Features are (2·N, C), so that each linear layer is one Gemm."""

    def __init__(
        self, arrays: Arrays, config: SuperGlueConfig, g: Graph, quantizer: Quantizer
    ) -> None:
        self.arrays, self.config, self.g, self.quantizer = arrays, config, g, quantizer

    def scores(self, keypoints: str, descriptors: str, bias: str) -> str:
        """Score matrix (N, N) from the values that `matcher_graph` describes."""
        g, config = self.g, self.config
        self.bias = {"self": bias, "cross": self._swap(bias)}
        self.mask = {
            kind: g.op("Transpose", masked, perm=[0, 2, 1]) for kind, masked in self.bias.items()
        }
        x = self._reshape(keypoints, [-1, 3])
        steps = 2 * len(config.keypoint_encoder)
        for i in range(0, steps, 2):
            x = g.op("Relu", self._linear(f"kenc.encoder.{i}", x))
        descriptors = self._reshape(descriptors, [-1, config.descriptor_dim])
        if config.descriptor_dim != config.width:
            descriptors = self._linear("input_proj", descriptors)
        x = g.op("Add", descriptors, self._linear(f"kenc.encoder.{steps}", x))
        for i, layer in enumerate(config.layers):
            x = self._layer(f"gnn.layers.{i}", x, layer)
        x = self._reshape(self._projected(x), [2, -1, config.width])
        first, second = g.split("Split", x, outputs=2, axis=0)
        scores = g.op("MatMul", first, g.op("Transpose", second, perm=[0, 2, 1]))
        scores = g.op("Squeeze", scores, g.constant("batch_axis", [0]))
        return self.quantizer.activation(scores, "matcher.sinkhorn")

    def _projected(self, x: str) -> str:
        """The final projection, scaled so that its dot products are divided by √width."""
        scale = float(np.float32(self.config.width**-0.25))  # applied to both images
        if self.quantizer.is_quantized("matcher.similarity"):
            x = self._linear("final_proj", x)
            return self.quantizer.activation(x, "matcher.similarity", scale)
        return self._linear("final_proj", x, factor=scale)

    def _layer(self, name: str, x: str, layer: AttentionConfig) -> str:
        g = self.g
        if self._is_plain(name) and not self._is_folded(name, layer) and self._merge_folds(layer):
            hidden = self._hidden_with_merge(name, x, self._attention(name, x, layer), layer)
        else:
            hidden = self._hidden(f"{name}.mlp.0", x, self._attention(name, x, layer))
        return g.op("Add", x, self._linear(f"{name}.mlp.2", g.op("Relu", hidden)))

    def _is_plain(self, name: str) -> bool:
        """Whether no activation of an attention layer is quantized."""
        names = self.quantizer.quantization.activations
        return not any(activation.startswith(f"matcher.{name}.") for activation in names)

    def _is_folded(self, name: str, layer: AttentionConfig) -> bool:
        """Whether the projections are merged in pairs; see `_folded_projections`."""
        single = layer.heads == 1 and layer.head_dim == self.config.width
        return single and not self._has_quantized_attention(name)

    def _merge_folds(self, layer: AttentionConfig) -> bool:
        """Whether folding the merge projection into the MLP takes no more multiplications."""
        inner, width = layer.heads * layer.head_dim, self.config.width
        return layer.hidden * inner <= width * (inner + layer.hidden)

    def _hidden_with_merge(self, name: str, x: str, message: str, layer: AttentionConfig) -> str:
        """As `_hidden`, with messages before the merge projection, which is folded into the MLP."""
        merge, merge_bias = self._weights(f"{name}.attn.merge")
        weight, bias = self._weights(f"{name}.mlp.0")
        old, new = np.split(weight, [self.config.width], axis=1)
        hidden = self._gemm(f"{name}.mlp.0", x, old, bias + new @ merge_bias)
        joined = self.g.constant(f"{name}.mlp.0.heads", new @ merge[:, _heads_together(layer)])
        return self.g.op("Gemm", message, joined, hidden, transB=1)

    def _hidden(self, name: str, x: str, message: str) -> str:
        """The first layer of the message MLP, without concatenating features and messages."""
        g, width = self.g, self.config.width
        weight, bias = self._weights(name)
        x = self.quantizer.activation(x, f"matcher.{name}")
        message = self.quantizer.activation(message, f"matcher.{name}.message")
        if self.quantizer.is_integer(f"matcher.{name}"):
            parts = []
            for activation, part, columns, offset in (
                ("", x, slice(0, width), bias),
                (f"matcher.{name}.message", message, slice(width, None), np.zeros_like(bias)),
            ):
                w, b = self.quantizer.weights(
                    f"matcher.{name}", offset, columns=columns, activation=activation
                )
                parts.append(g.op("Gemm", part, w, b, transB=1))
            return g.op("Add", *parts)
        old, new = np.split(weight, [width], axis=1)
        hidden = self._gemm(name, x, old, bias)
        return g.op("Gemm", message, g.constant(f"{name}.message", new), hidden, transB=1)

    def _attention(self, name: str, x: str, layer: AttentionConfig) -> str:
        """Features (2·N, C) → messages (2·N, C), or (2·N, h·d) if the MLP includes the merge."""
        g, one = self.g, layer.heads == 1
        folded, plain = self._is_folded(name, layer), self._is_plain(name)
        scores = f"matcher.{name}.attn.scores"
        scale = float(np.float32(1 / math.sqrt(layer.head_dim)))
        scale_later = self.quantizer.is_quantized(f"{scores}.query")
        parts = self._query_key_value(name, x, layer, 1.0 if scale_later else scale)
        masked = one and plain and not folded  # the keys contain the mask; see `_projections`
        queries = (
            self._reshape(parts[0], [2, -1, layer.head_dim + 1])
            if masked
            else (self._heads(parts[0], layer))
        )
        keys, values = (self._heads(part, layer) for part in parts[1:])
        if layer.kind == "cross":
            keys, values = self._swap(keys), self._swap(values)
        if masked:
            keys = g.op("Concat", keys, self.mask[layer.kind], axis=2)
        keys = g.op("Transpose", keys, perm=[0, 2, 1] if one else [0, 1, 3, 2])
        queries = self.quantizer.activation(
            queries, f"{scores}.query", scale if scale_later else 1.0
        )
        keys = self.quantizer.activation(keys, f"{scores}.key")
        logits = g.op("MatMul", queries, keys)
        if not masked:
            mask = self.bias[layer.kind]
            if not one:
                mask = g.op("Unsqueeze", mask, g.constant("head_axis", [1]))
            logits = g.op("Add", logits, mask)
        message = self._weighted_values(name, logits, values, layer)
        if folded or (plain and self._merge_folds(layer)):
            return message
        return self._linear(f"{name}.attn.merge", message, columns=_heads_together(layer))

    def _query_key_value(
        self, name: str, x: str, layer: AttentionConfig, scale: float
    ) -> list[str]:
        """Queries, times `scale`, keys and values of features (2·N, C), heads together."""
        one, order = layer.heads == 1, _heads_together(layer)
        if self._is_folded(name, layer):
            return self._folded_projections(f"{name}.attn", x, scale)
        if self._is_plain(name):
            return self._projections(f"{name}.attn", x, scale, order, one)
        return [
            self._linear(f"{name}.attn.proj.{i}", x, rows=order, factor=factor)
            for i, factor in enumerate((scale, 1.0, 1.0))
        ]

    def _weighted_values(self, name: str, logits: str, values: str, layer: AttentionConfig) -> str:
        """Attention logits and values → messages (2·N, h·d) before the merge projection."""
        g, message = self.g, f"matcher.{name}.attn.message"
        weights = self.quantizer.activation(g.op("Softmax", logits, axis=-1), f"{message}.weights")
        values = self.quantizer.activation(values, f"{message}.value")
        messages = g.op("MatMul", weights, values)
        if layer.heads > 1:
            messages = g.op("Transpose", messages, perm=[0, 2, 1, 3])
        return self._reshape(messages, [-1, layer.heads * layer.head_dim])

    def _has_quantized_attention(self, name: str) -> bool:
        """Whether an activation within the attention of a layer is quantized."""
        names = self.quantizer.quantization.activations
        return any(activation.startswith(f"matcher.{name}.attn.") for activation in names)

    def _projections(
        self, name: str, x: str, scale: float, order: NDArray[np.int64], one: bool
    ) -> list[str]:
        """Queries, keys and values by one Gemm.

        The queries of a single head end with a 1. With the mask as the last channel of the keys,
        the dot product adds the mask to the logits.
        """
        query, key, value = (self._weights(f"{name}.proj.{j}") for j in range(3))
        query = query[0] * np.float32(scale), query[1] * np.float32(scale)
        parts = [(weight[order], bias[order]) for weight, bias in (query, key, value)]
        if one:
            parts.insert(1, (np.zeros((1, self.config.width), np.float32), np.ones(1, np.float32)))
        weight, bias = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        joined = self._gemm(f"{name}.projections", x, weight, bias)
        inner = len(order)
        sizes = self.g.constant(f"parts_{one}_{inner}", [inner + one, inner, inner])
        return self.g.split("Split", joined, sizes, outputs=3, axis=1)

    def _folded_projections(self, name: str, x: str, scale: float) -> list[str]:
        """Queries, keys and values of a single head that is as wide as the features.

        (Q x + q)·(K y + k) equals (Kᵀ Q x + Kᵀ q)·y up to a term that softmax over y cancels, so
        the features are the keys. Attention weights sum to 1, so the merge projection applies to
        the values.
        """
        query, key, value = (self._weights(f"{name}.proj.{j}") for j in range(3))
        merge, merge_bias = self._weights(f"{name}.merge")
        query = query[0] * np.float32(scale), query[1] * np.float32(scale)
        query = key[0].T @ query[0], key[0].T @ query[1]
        value = merge @ value[0], merge @ value[1] + merge_bias
        queries = self._gemm(f"{name}.query", x, *query)
        return [queries, x, self._gemm(f"{name}.value", x, *value)]

    def _heads(self, x: str, layer: AttentionConfig) -> str:
        """(2·N, h·d) → (2, N, d) for one head, (2, h, N, d) for several."""
        if layer.heads == 1:
            return self._reshape(x, [2, -1, layer.head_dim])
        x = self._reshape(x, [2, -1, layer.heads, layer.head_dim])
        return self.g.op("Transpose", x, perm=[0, 2, 1, 3])

    def _swap(self, x: str) -> str:
        """Swap both images in the batch."""
        return self.g.op("Gather", x, self.g.constant("other", [1, 0]), axis=0)

    def _reshape(self, x: str, shape: list[int]) -> str:
        name = "shape_" + "_".join(map(str, shape))
        return self.g.op("Reshape", x, self.g.constant(name, shape))

    def _weights(self, name: str) -> tuple[Float, Float]:
        return self.arrays[f"matcher.{name}.weight"], self.arrays[f"matcher.{name}.bias"]

    def _linear(
        self,
        name: str,
        x: str,
        rows: Order = slice(None),
        columns: Order = slice(None),
        factor: float = 1.0,
    ) -> str:
        """A linear layer, quantized as the artifact defines.

        Args:
            rows, columns: order of the outputs and inputs.
            factor: factor of the output.
        """
        layer = f"matcher.{name}"
        weight, bias = self._weights(name)
        x = self.quantizer.activation(x, layer)
        if self.quantizer.is_integer(layer):
            w, b = self.quantizer.weights(layer, bias, rows=rows, columns=columns, factor=factor)
            return self.g.op("Gemm", x, w, b, transB=1)
        scale = np.float32(factor)
        return self._gemm(name, x, weight[rows][:, columns] * scale, bias[rows] * scale)

    def _gemm(self, name: str, x: str, weight: Float, bias: Float) -> str:
        w, b = self.g.constant(f"{name}.weight", weight), self.g.constant(f"{name}.bias", bias)
        return self.g.op("Gemm", x, w, b, transB=1)


def _heads_together(layer: AttentionConfig) -> NDArray[np.int64]:
    """Channel order that turns interleaved heads (c mod h) into contiguous ones."""
    channels = np.arange(layer.heads * layer.head_dim)
    return channels.reshape(layer.head_dim, layer.heads).T.reshape(-1)

"""Artifact → ONNX graphs, written for speed on a CPU.

Batch normalisation is folded, both images go through the matcher as one batch, linear maps that
follow each other are one, and no two halves are concatenated only to be multiplied.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from featherglue.artifact import Arrays, Artifact
from featherglue.config import AttentionConfig, SuperGlueConfig
from featherglue.errors import UsageError
from featherglue.files import atomic
from featherglue.folding import fold_batch_norm
from featherglue.layers import ENCODER
from featherglue.runtime.graph import Graph
from featherglue.runtime.graphs import graph_mark

Float = NDArray[np.float32]


def export_onnx(artifact: Artifact, folder: str | os.PathLike[str]) -> list[Path]:
    """Write extractor.onnx and matcher.onnx (those that the artifact has) into a folder.

    Raises:
        UsageError: the artifact was never saved, so that the graphs could not be told from others.
        OutputError: the folder cannot be written.
    """
    if not artifact.hash:
        raise UsageError("save the artifact before exporting it")
    folded = fold_batch_norm(artifact)
    metadata = {"made_from": graph_mark(artifact)}
    built: dict[str, bytes] = {}
    if folded.architecture.extractor is not None:
        built["extractor.onnx"] = extractor_graph(folded.arrays).build(metadata)
    if folded.architecture.matcher is not None:
        graph = matcher_graph(folded.arrays, folded.architecture.matcher)
        built["matcher.onnx"] = graph.build(metadata)
    paths = []
    for name, data in built.items():
        path = Path(folder) / name
        with atomic(path) as file:
            file.write(data)
        paths.append(path)
    return paths


def extractor_graph(arrays: Arrays) -> Graph:
    """image (1, 1, H, W) uint8 → scores (1, 1, H, W), descriptors (1, Hc, Wc, D)."""
    g = Graph("extractor")

    def conv(name: str, x: str, relu: bool = True) -> str:
        weight = arrays[f"extractor.conv{name}.weight"]
        bias = arrays[f"extractor.conv{name}.bias"]
        size = weight.shape[2]
        if name == ENCODER[0]:
            weight = weight / np.float32(255)
        elif name == "Pb":  # every logit against the one of "no keypoint": see _softmax
            weight, bias = weight[:-1] - weight[-1:], bias[:-1] - bias[-1]
        x = g.op(
            "Conv",
            x,
            g.constant(f"conv{name}.weight", weight),
            g.constant(f"conv{name}.bias", bias),
            name=f"conv{name}",
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
        )
        return g.op("Relu", x) if relu else x

    image = g.input("image", TensorProto.UINT8, [1, 1, "height", "width"])
    x = g.op("Cast", image, to=TensorProto.FLOAT)
    for name in ENCODER:
        x = conv(name, x)
        if name in ("1b", "2b", "3b"):
            x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    scores = g.op(
        "DepthToSpace", _softmax(g, conv("Pb", conv("Pa", x), relu=False)), blocksize=8, mode="CRD"
    )
    descriptors = conv("Db", conv("Da", x), relu=False)
    descriptors = g.op("Transpose", descriptors, perm=[0, 2, 3, 1])
    width = arrays["extractor.convDb.weight"].shape[0]
    g.output(scores, "scores", [1, 1, "height", "width"])
    g.output(descriptors, "descriptors", [1, "rows", "columns", width])
    return g


def _softmax(g: Graph, logits: str) -> str:
    """Probabilities (1, 64, Hc, Wc) of the cells' pixels, from logits less that of "no keypoint".

    A softmax over 65 channels after a transposition takes three times as long as this: the sum is
    a convolution with ones, and nothing leaves the layout of convolutions.
    """
    powers = g.op("Exp", g.op("Min", logits, g.constant("largest", 40.0)))
    ones = g.constant("sum.weight", np.ones((1, 64, 1, 1), np.float32))
    one = g.constant("sum.bias", np.ones(1, np.float32))
    return g.op("Div", powers, g.op("Conv", powers, ones, one, kernel_shape=[1, 1]))


def matcher_graph(arrays: Arrays, config: SuperGlueConfig) -> Graph:
    """keypoints (2, N, 3), descriptors (2, N, D), bias (2, 1, N) → scores (N, N).

    The two images are the two entries of the batch; `bias` is added to the attention logits of
    whoever attends to that image: 0 for keypoints, a large negative number for padding.
    """
    return _MatcherBuilder(arrays, config).build()


class _MatcherBuilder:
    """Features are kept flat, (2·N, C), so that every linear layer is one product with bias."""

    def __init__(self, arrays: Arrays, config: SuperGlueConfig) -> None:
        self.arrays, self.config, self.g = arrays, config, Graph("matcher")

    def build(self) -> Graph:
        g, config = self.g, self.config
        keypoints = g.input("keypoints", TensorProto.FLOAT, [2, "count", 3])
        descriptors = g.input("descriptors", TensorProto.FLOAT, [2, "count", config.descriptor_dim])
        bias = g.input("bias", TensorProto.FLOAT, [2, 1, "count"])
        self.bias = {"self": bias, "cross": self._swap(bias)}
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
        weight, offset = self._weights("final_proj")
        scale = np.float32(config.width**-0.25)  # on both sides, so √width in the product
        x = self._reshape(
            self._gemm("final_proj", x, weight * scale, offset * scale), [2, -1, config.width]
        )
        first, second = g.split("Split", x, outputs=2, axis=0)
        scores = g.op("MatMul", first, g.op("Transpose", second, perm=[0, 2, 1]))
        scores = g.op("Squeeze", scores, g.constant("batch_axis", [0]))
        g.output(scores, "scores", ["count", "count"])
        return g

    def _layer(self, name: str, x: str, layer: AttentionConfig) -> str:
        g = self.g
        message = self._attention(name, x, layer)
        weight, bias = self._weights(f"{name}.mlp.0")
        old, new = np.split(weight, [self.config.width], axis=1)
        hidden = self._gemm(f"{name}.mlp.0", x, old, bias)
        hidden = g.op("Gemm", message, g.constant(f"{name}.mlp.0.message", new), hidden, transB=1)
        return g.op("Add", x, self._linear(f"{name}.mlp.2", g.op("Relu", hidden)))

    def _attention(self, name: str, x: str, layer: AttentionConfig) -> str:
        """(2·N, C) → messages (2·N, C)."""
        g = self.g
        order = _heads_together(layer)
        query, key, value = (self._weights(f"{name}.attn.proj.{j}") for j in range(3))
        merge, merge_bias = self._weights(f"{name}.attn.merge")
        scale = np.float32(1 / math.sqrt(layer.head_dim))
        query = query[0] * scale, query[1] * scale
        folded = layer.heads == 1 and layer.head_dim == self.config.width
        if folded:
            # (Q x + q)·(K y + k) is (Kᵀ Q x + Kᵀ q)·y, but for what all y have in common; and
            # attention's weights sum to 1, so that merging comes before them as well as after.
            query = key[0].T @ query[0], key[0].T @ query[1]
            value = merge @ value[0], merge @ value[1] + merge_bias
        parts = [self._gemm(f"{name}.attn.query", x, query[0][order], query[1][order])]
        parts.append(
            x if folded else self._gemm(f"{name}.attn.key", x, key[0][order], key[1][order])
        )
        parts.append(self._gemm(f"{name}.attn.value", x, value[0][order], value[1][order]))
        queries, keys, values = (self._heads(part, layer) for part in parts)
        if layer.kind == "cross":
            keys, values = self._swap(keys), self._swap(values)
        one = layer.heads == 1
        keys = g.op("Transpose", keys, perm=[0, 2, 1] if one else [0, 1, 3, 2])
        mask = self.bias[layer.kind]
        if not one:
            mask = g.op("Unsqueeze", mask, g.constant("head_axis", [1]))
        weights = g.op("Softmax", g.op("Add", g.op("MatMul", queries, keys), mask), axis=-1)
        message = g.op("MatMul", weights, values)
        if not one:
            message = g.op("Transpose", message, perm=[0, 2, 1, 3])
        message = self._reshape(message, [-1, layer.heads * layer.head_dim])
        if folded:
            return message
        return self._gemm(f"{name}.attn.merge", message, merge[:, order], merge_bias)

    def _heads(self, x: str, layer: AttentionConfig) -> str:
        """(2·N, h·d) → (2, N, d) for one head, (2, h, N, d) for several."""
        if layer.heads == 1:
            return self._reshape(x, [2, -1, layer.head_dim])
        x = self._reshape(x, [2, -1, layer.heads, layer.head_dim])
        return self.g.op("Transpose", x, perm=[0, 2, 1, 3])

    def _swap(self, x: str) -> str:
        """The other image's entry of the batch."""
        return self.g.op("Gather", x, self.g.constant("other", [1, 0]), axis=0)

    def _reshape(self, x: str, shape: list[int]) -> str:
        name = "shape_" + "_".join(map(str, shape))
        return self.g.op("Reshape", x, self.g.constant(name, shape))

    def _weights(self, name: str) -> tuple[Float, Float]:
        return self.arrays[f"matcher.{name}.weight"], self.arrays[f"matcher.{name}.bias"]

    def _linear(self, name: str, x: str) -> str:
        return self._gemm(name, x, *self._weights(name))

    def _gemm(self, name: str, x: str, weight: Float, bias: Float) -> str:
        w, b = self.g.constant(f"{name}.weight", weight), self.g.constant(f"{name}.bias", bias)
        return self.g.op("Gemm", x, w, b, transB=1)


def _heads_together(layer: AttentionConfig) -> np.ndarray:
    """Channel order in which the interleaved heads (c mod h) stand side by side."""
    channels = np.arange(layer.heads * layer.head_dim)
    return channels.reshape(layer.head_dim, layer.heads).T.reshape(-1)

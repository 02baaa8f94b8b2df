"""Artifact → ONNX graphs, written for speed on a CPU.

Batch normalisation is folded, both images go through the matcher as one batch, queries, keys and
values are one product, and no two halves are concatenated only to be multiplied.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
from onnx import TensorProto

from featherglue.artifact import Arrays, Artifact
from featherglue.config import AttentionConfig, SuperGlueConfig
from featherglue.errors import UsageError
from featherglue.files import atomic
from featherglue.folding import fold_batch_norm
from featherglue.layers import ENCODER
from featherglue.runtime.graph import Graph
from featherglue.runtime.graphs import graph_mark


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
        size = weight.shape[2]
        x = g.op(
            "Conv",
            x,
            g.constant(f"conv{name}.weight", weight),
            g.constant(f"conv{name}.bias", arrays[f"extractor.conv{name}.bias"]),
            name=f"conv{name}",
            kernel_shape=[size, size],
            pads=[size // 2] * 4,
        )
        return g.op("Relu", x) if relu else x

    image = g.input("image", TensorProto.UINT8, [1, 1, "height", "width"])
    x = g.op("Cast", image, to=TensorProto.FLOAT)
    x = g.op("Mul", x, g.constant("scale", 1 / 255))
    for name in ENCODER:
        x = conv(name, x)
        if name in ("1b", "2b", "3b"):
            x = g.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    logits = conv("Pb", conv("Pa", x), relu=False)
    cells = g.op("Softmax", g.op("Transpose", logits, perm=[0, 2, 3, 1]), axis=-1)
    start, end, axis = (g.constant(f"slice{i}", [v]) for i, v in enumerate((0, 64, 3)))
    cells = g.op("Transpose", g.op("Slice", cells, start, end, axis), perm=[0, 3, 1, 2])
    scores = g.op("DepthToSpace", cells, blocksize=8, mode="CRD")
    descriptors = conv("Db", conv("Da", x), relu=False)
    descriptors = g.op("Transpose", descriptors, perm=[0, 2, 3, 1])
    width = arrays["extractor.convDb.weight"].shape[0]
    g.output(scores, "scores", [1, 1, "height", "width"])
    g.output(descriptors, "descriptors", [1, "rows", "columns", width])
    return g


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
        x = self._reshape(self._linear("final_proj", x), [2, -1, config.width])
        first, second = g.split("Split", x, outputs=2, axis=0)
        scores = g.op("MatMul", first, g.op("Transpose", second, perm=[0, 2, 1]))
        scale = g.constant("score_scale", 1 / math.sqrt(config.width))
        scores = g.op("Squeeze", g.op("Mul", scores, scale), g.constant("batch_axis", [0]))
        g.output(scores, "scores", ["count", "count"])
        return g

    def _layer(self, name: str, x: str, layer: AttentionConfig) -> str:
        g = self.g
        message = self._linear(f"{name}.attn.merge", self._attention(name, x, layer), layer)
        weight = self.arrays[f"matcher.{name}.mlp.0.weight"]
        old, new = np.split(weight, [self.config.width], axis=1)
        bias = g.constant(f"{name}.mlp.0.bias", self.arrays[f"matcher.{name}.mlp.0.bias"])
        hidden = g.op("Gemm", x, g.constant(f"{name}.mlp.0.x", old), bias, transB=1)
        hidden = g.op("Gemm", message, g.constant(f"{name}.mlp.0.message", new), hidden, transB=1)
        return g.op("Add", x, self._linear(f"{name}.mlp.2", g.op("Relu", hidden)))

    def _attention(self, name: str, x: str, layer: AttentionConfig) -> str:
        """(2·N, C) → messages (2·N, h·d), each head's channels side by side."""
        g = self.g
        parts = [self._weights(f"{name}.attn.proj.{j}") for j in range(3)]
        order = _heads_together(layer)
        weight = np.concatenate([w[order] for w, _ in parts])
        bias = np.concatenate([b[order] for _, b in parts])
        packed = g.op(
            "Gemm",
            x,
            g.constant(f"{name}.attn.proj.weight", weight),
            g.constant(f"{name}.attn.proj.bias", bias),
            transB=1,
        )
        query, key, value = g.split("Split", packed, outputs=3, axis=1)
        scale = g.constant(f"scale{layer.head_dim}", 1 / math.sqrt(layer.head_dim))
        query = self._heads(g.op("Mul", query, scale), layer)
        key, value = self._heads(key, layer), self._heads(value, layer)
        if layer.kind == "cross":
            key, value = self._swap(key), self._swap(value)
        one = layer.heads == 1
        key = g.op("Transpose", key, perm=[0, 2, 1] if one else [0, 1, 3, 2])
        mask = self.bias[layer.kind]
        if not one:
            mask = g.op("Unsqueeze", mask, g.constant("head_axis", [1]))
        weights = g.op("Softmax", g.op("Add", g.op("MatMul", query, key), mask), axis=-1)
        message = g.op("MatMul", weights, value)
        if not one:
            message = g.op("Transpose", message, perm=[0, 2, 1, 3])
        return self._reshape(message, [-1, layer.heads * layer.head_dim])

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

    def _weights(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return self.arrays[f"matcher.{name}.weight"], self.arrays[f"matcher.{name}.bias"]

    def _linear(self, name: str, x: str, merges: AttentionConfig | None = None) -> str:
        weight, bias = self._weights(name)
        if merges is not None:
            weight = weight[:, _heads_together(merges)]
        w, b = self.g.constant(f"{name}.weight", weight), self.g.constant(f"{name}.bias", bias)
        return self.g.op("Gemm", x, w, b, transB=1)


def _heads_together(layer: AttentionConfig) -> np.ndarray:
    """Channel order in which the interleaved heads (c mod h) stand side by side."""
    channels = np.arange(layer.heads * layer.head_dim)
    return channels.reshape(layer.head_dim, layer.heads).T.reshape(-1)

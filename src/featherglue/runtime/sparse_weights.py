"""Arrange the weights of a network for the sparse kernels: zeros are left out.

A layer is stored by single outputs or by groups of four outputs that share their inputs, whichever
is faster. Dense layers are groups that have all inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.layers import ENCODER
from featherglue.config import AttentionConfig, SuperGlueConfig, SuperPointConfig
from featherglue.native.sparse_networks import TILE, PackedNetwork

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Arrays = Mapping[str, Float]

GROUP = 4
# Fraction of non-zero weights in groups from which groups are faster than single outputs.
_MIN_FILL = 0.7
_BLOCK, _ROWS, _COLUMNS, _PLACES = 64, 6, 18, 64  # of the windows; see sparse_extractor.c
_BYTES = 4
_MAX_STEPS, _MAX_LAYERS, _MAX_CHANNELS = 8, 64, 2048  # see the C sources


def can_pack_extractor(config: SuperPointConfig) -> bool:
    """Whether the kernels can run an extractor: one of the published structure."""
    widest = max((*config.channels, config.detector_channels, config.descriptor_channels))
    return config.stem == 1 and not config.context_channels and widest <= _MAX_CHANNELS


def can_pack_matcher(config: SuperGlueConfig) -> bool:
    """Whether the kernels can run a matcher."""
    return len(config.keypoint_encoder) < _MAX_STEPS and len(config.layers) <= _MAX_LAYERS


def pack_extractor(arrays: Arrays, config: SuperPointConfig) -> PackedNetwork:
    """Pack an extractor without batch normalization, for which `can_pack_extractor` holds.

    Args:
        arrays: tensors by name, as in a model folder.
        config: sizes of the extractor.
    """
    packer = Packer()

    def layer(name: str) -> tuple[Float, Float]:
        prefix = f"extractor.conv{name}"
        return arrays[f"{prefix}.weight"], arrays[f"{prefix}.bias"]

    weight, bias = layer(ENCODER[0])
    packer.plan += [len(bias), packer.append(weight / np.float32(255), bias)]
    for name in (*ENCODER[1:], "Pa", "Pb", "Da", "Db"):
        packer.convolution(*layer(name))
    return packer.packed(config.descriptor_dim)


def pack_matcher(arrays: Arrays, config: SuperGlueConfig) -> PackedNetwork:
    """Pack a matcher without batch normalization, for which `can_pack_matcher` holds.

    Args:
        arrays: tensors by name, as in a model folder.
        config: sizes of the matcher.
    """
    packer = Packer()

    def linear(name: str) -> tuple[Float, Float]:
        return arrays[f"matcher.{name}.weight"], arrays[f"matcher.{name}.bias"]

    projected = config.descriptor_dim != config.width
    packer.plan += [
        config.descriptor_dim,
        config.width,
        max((layer.heads * _padded(layer.head_dim) for layer in config.layers), default=0),
        max((config.width, *config.keypoint_encoder, *(layer.hidden for layer in config.layers))),
        projected,
        len(config.keypoint_encoder) + 1,
        len(config.layers),
    ]
    for layer in config.layers:
        packer.plan += [layer.kind == "cross", layer.heads, _padded(layer.head_dim)]
    for i in range(len(config.keypoint_encoder) + 1):
        packer.linear(*linear(f"kenc.encoder.{2 * i}"))
    if projected:
        packer.linear(*linear("input_proj"))
    for i, layer in enumerate(config.layers):
        name, order = f"gnn.layers.{i}", _heads_together(layer)
        scale = np.float32(layer.head_dim**-0.5)
        for j, factor in enumerate((scale, np.float32(1), np.float32(1))):
            weight, bias = linear(f"{name}.attn.proj.{j}")
            packer.linear(_take(weight, order, 0) * factor, _take(bias, order, 0) * factor)
        weight, bias = linear(f"{name}.attn.merge")
        packer.linear(_take(weight, order, 1), bias)
        weight, bias = linear(f"{name}.mlp.0")
        features, messages = np.split(weight, [config.width], axis=1)
        packer.linear(features, bias)
        packer.linear(messages, np.zeros_like(bias))
        packer.linear(*linear(f"{name}.mlp.2"))
    factor = np.float32(config.width**-0.25)  # of both images: products are divided by √width
    weight, bias = linear("final_proj")
    packer.linear(weight * factor, bias * factor)
    return packer.packed(config.width)


class Packer:
    """Collects the arrays of a `PackedNetwork`."""

    def __init__(self) -> None:
        self.plan: list[int] = []
        self._indices: list[Index] = []
        self._values: list[Float] = []
        self._num_indices = self._num_values = 0

    def packed(self, outputs: int) -> PackedNetwork:
        return PackedNetwork(
            plan=np.array(self.plan, np.int64),
            indices=np.concatenate(self._indices).astype(np.int32),
            values=np.concatenate(self._values).astype(np.float32),
            outputs=outputs,
        )

    def append(self, *arrays: Float) -> int:
        """Add values; returns the position of the first."""
        position = self._num_values
        for array in arrays:
            self._values.append(array.reshape(-1))
            self._num_values += array.size
        return position

    def linear(self, weight: Float, bias: Float) -> None:
        """Add a linear layer: weight (outputs, inputs), bias (outputs,)."""
        self.product(weight, bias, np.arange(weight.shape[1]) * TILE * _BYTES)

    def convolution(self, weight: Float, bias: Float) -> None:
        """Add a convolution: weight (outputs, inputs, k, k) with k of 1 or 3, bias (outputs,)."""
        outputs, inputs, kernel, _ = weight.shape
        self.plan += [inputs, outputs, kernel]
        channel, y, x = np.indices((_BLOCK, kernel, kernel)).reshape(3, -1)
        window = (channel * _ROWS + y) * _COLUMNS + x
        places = window if kernel == 3 else channel * _PLACES
        for first in range(0, inputs, _BLOCK):
            block = weight[:, first : first + _BLOCK].reshape(outputs, -1)
            start = np.zeros_like(bias) if first else bias
            self.product(block, start, places[: block.shape[1]] * _BYTES)

    def product(self, weight: Float, bias: Float, offsets: Index) -> None:
        """Add a product: weight (outputs, inputs), offsets (inputs,) of the inputs in a tile."""
        start, offset, values, block = _compressed(weight, offsets)
        self.plan += [
            len(bias),
            block,
            self._num_indices,
            self._num_indices + len(start),
            self.append(bias, values),
        ]
        self._indices += [start, offset]
        self._num_indices += len(start) + len(offset)


def _compressed(weight: Float, offsets: Index) -> tuple[Index, Index, Float, int]:
    """Starts of the groups, offsets and values of their weights, and outputs in a group."""
    outputs, inputs = weight.shape
    filled = weight != 0
    if outputs % GROUP == 0:
        groups = filled.reshape(-1, GROUP, inputs).any(1)
        if filled.sum() >= _MIN_FILL * GROUP * groups.sum():
            group, column = np.nonzero(groups)
            values = weight.reshape(-1, GROUP, inputs)[group, :, column]
            return _starts(groups.sum(1)), offsets[column], values, GROUP
    row, column = np.nonzero(filled)
    counts = filled.sum(1)
    start = _starts(counts + counts % 2)
    place = start[row] + np.arange(len(row)) - _starts(counts)[row]
    offset = np.zeros(start[-1], np.int64)
    values = np.zeros(start[-1], np.float32)
    last = start[1:][counts % 2 == 1] - 1  # a weight of 0 makes an odd number even
    offset[place], values[place] = offsets[column], weight[row, column]
    offset[last] = offset[last - 1]
    return start, offset, values, 1


def _starts(counts: Index) -> Index:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _padded(head_dim: int) -> int:
    return -(-head_dim // GROUP) * GROUP


def _heads_together(layer: AttentionConfig) -> Index:
    """Channels of the heads one after the other, each padded to groups with −1.

    Channel c belongs to head c mod h.
    """
    order = np.full((layer.heads, _padded(layer.head_dim)), -1)
    channels = np.arange(layer.heads * layer.head_dim).reshape(layer.head_dim, layer.heads)
    order[:, : layer.head_dim] = channels.T
    return order.reshape(-1)


def _take(array: Float, order: Index, axis: int) -> Float:
    """The entries of an order along an axis, 0 where the order is −1."""
    padding = [(0, int(i == axis)) for i in range(array.ndim)]
    return np.take(np.pad(array, padding), order, axis)

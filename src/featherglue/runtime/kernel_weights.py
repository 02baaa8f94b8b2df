"""The weights of both networks as the kernels in C take them.

Numbers of channels are padded with zero weights to multiples of 8 or 16, which changes no result.

Shape legend: I inputs and O outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.layers import CELL, ENCODER, context_names, pooled_layers
from featherglue.config import AttentionConfig, SuperGlueConfig

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Arrays = Mapping[str, NDArray[np.float32]]

_TILE = 16  # outputs that are computed at once
_LANES = 8
_ALIGNMENT = 64  # bytes
_CELL_PIXELS = CELL**2
# Kinds of steps; see maps.h.
_CONVOLVE, _CONVOLVE_POOL, _POOL, _PROJECT, _ADD = range(5)
# The map of the detector's hidden layer; two maps for each level of the context branch follow.
_HIDDEN = 2
# Transform of 3×3 kernels for Winograd's F(4×4, 3×3), Lavin and Gray 2016.
_KERNEL_TRANSFORM = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelWeights:
    """A network for the kernels.

    Attributes:
        plan: (…,) int64, sizes of the layers; see extractor.c and matcher.c.
        weights: (…,) float32, all weights and biases one after the other, aligned.
    """

    plan: NDArray[np.int64]
    weights: Float


def extractor_weights(arrays: Arrays) -> KernelWeights:
    """Arrange the weights of an extractor without batch normalization."""
    side = arrays[f"extractor.conv{ENCODER[0]}.weight"].shape[2]
    stride = 2 if side == 4 else 1
    network = _ExtractorSteps(arrays)
    network.stem(ENCODER[0])
    pooled, encoded, other = pooled_layers(stride), 0, 1
    for name in ENCODER[1:]:
        network.convolve([name], encoded, other, pool=name in pooled)
        encoded, other = other, encoded
    if network.has_layer(context_names(1)[0]):
        # The detector reads the encoder's output before the context branch changes it.
        (detector,) = network.convolve(["Pa"], encoded, _HIDDEN)
        network.add_context(encoded)
        (descriptor,) = network.convolve(["Da"], encoded, other)
        network.heads((_HIDDEN, 0, detector), (other, 0, descriptor))
    else:
        detector, descriptor = network.convolve(["Pa", "Da"], encoded, other)
        network.heads((other, 0, detector), (other, detector, descriptor))
    plan = [side, stride, network.num_steps, *network.plan]
    return KernelWeights(plan=np.array(plan, np.int64), weights=_joined(network.parts))


class _ExtractorSteps:
    """The steps of an extractor, in the order of execution; see extractor.c.

    A map is where a step reads or writes. The encoder alternates between the maps 0 and 1.

    Attributes:
        plan: kind, maps and channels of each step; then the heads.
        parts: the weights and biases.
    """

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        self.num_steps = 0
        self.plan: list[int] = []
        self.parts: list[NDArray[np.floating]] = []

    def has_layer(self, name: str) -> bool:
        return f"extractor.conv{name}.weight" in self.arrays

    def stem(self, name: str) -> None:
        """The first convolution, from the image to map 0; its source and inputs are not read."""
        weight, bias = self._layer(name)
        outputs, side = _up(len(weight), _LANES), weight.shape[2]
        stem = _padded(weight[:, 0] / 255, outputs, side, side)
        stem = stem.reshape(outputs // _LANES, _LANES, side, side).transpose(0, 2, 3, 1)
        self._add(_CONVOLVE, 0, 0, _LANES, outputs)
        self.parts += [stem, _padded(bias, outputs)]

    def convolve(
        self, names: Sequence[str], source: int, target: int, *, pool: bool = False
    ) -> list[int]:
        """3×3 convolutions of one map, with ReLU, side by side. Returns their padded outputs."""
        both = []
        for name in names:
            weight, bias = self._layer(name)
            width = _up(len(weight), _LANES)
            both.append((_padded(weight, width, *weight.shape[1:]), _padded(bias, width)))
        weight, bias = (np.concatenate(parts) for parts in zip(*both, strict=True))
        outputs, inputs = len(weight), _up(weight.shape[1], _LANES)
        transform = np.einsum(
            "ai,ocij,bj->abco",
            _KERNEL_TRANSFORM,
            _padded(weight, outputs, inputs, 3, 3),
            _KERNEL_TRANSFORM,
        )
        self._add(_CONVOLVE_POOL if pool else _CONVOLVE, source, target, inputs, outputs)
        self.parts += [*_tiles(transform.reshape(-1, inputs, outputs)), bias]
        return [len(biases) for _, biases in both]

    def add_context(self, source: int, level: int = 1) -> None:
        """Add the context branch from a level on to a map, as `SuperPoint` does."""
        first, second, projection = context_names(level)
        if not self.has_layer(first):
            return
        here = _HIDDEN + 2 * level - 1
        other, channels = here + 1, _up(self._layer(projection)[0].shape[0], _LANES)
        self._add(_POOL, source, here, channels, channels)
        self.convolve([first], here, other)
        self.convolve([second], other, here)
        self.add_context(here, level + 1)
        weight, bias = self._layer(projection)
        inputs = _up(weight.shape[1], _LANES)
        self._add(_PROJECT, here, other, inputs, channels)
        product = _padded(weight[:, :, 0, 0].T, inputs, channels)
        self.parts += [*_tiles(product), _padded(bias, channels)]
        self._add(_ADD, other, source, channels, channels)

    def heads(self, points: tuple[int, int, int], descriptors: tuple[int, int, int]) -> None:
        """The last layers of both heads.

        Args:
            points, descriptors: map, first channel and number of channels that the head reads.
        """
        weight, bias = self._layer("Pb")
        # Only differences from the logit of "no keypoint" count.
        difference = (weight[:-1] - weight[-1:])[:, :, 0, 0].T
        self.plan += [*points, _CELL_PIXELS]
        product = _padded(difference, points[-1], _CELL_PIXELS)
        self.parts += [*_tiles(product), bias[:-1] - bias[-1]]
        weight, bias = self._layer("Db")
        self.plan += [*descriptors, len(weight)]
        self.parts += [*_tiles(_padded(weight[:, :, 0, 0].T, descriptors[-1], len(weight))), bias]

    def _add(self, kind: int, source: int, target: int, inputs: int, outputs: int) -> None:
        self.plan += [kind, source, target, inputs, outputs]
        self.num_steps += 1

    def _layer(self, name: str) -> tuple[Double, Double]:
        return _layer(self.arrays, f"extractor.conv{name}")


def matcher_weights(arrays: Arrays, config: SuperGlueConfig) -> KernelWeights:
    """Arrange the weights of a matcher without batch normalization."""
    linears = list(_linears(arrays, config))
    hidden = [*config.keypoint_encoder, *(layer.hidden for layer in config.layers), config.width]
    inners = [layer.heads * _up(layer.head_dim, _TILE) for layer in config.layers]
    plan = [len(config.layers)]
    for layer in config.layers:
        plan += [layer.kind == "cross", layer.heads, _up(layer.head_dim, _TILE)]
    plan += [
        len(config.keypoint_encoder) + 1,
        config.descriptor_dim != config.width,
        max(inners, default=_TILE),
        _up(max(hidden), _TILE),
        _up(config.width, _TILE),
        config.descriptor_dim,
    ]
    parts: list[NDArray[np.floating]] = []
    for weight, bias in linears:
        plan += weight.shape
        parts += [*_tiles(weight[None]), bias]
    return KernelWeights(plan=np.array(plan, np.int64), weights=_joined(parts))


def _linears(arrays: Arrays, config: SuperGlueConfig) -> Iterable[tuple[Double, Double]]:
    """Weights (I, O) and biases (O,) of all products, padded, in the order of the kernel."""

    def padded(weight: Double, bias: Double, inputs: int = 0) -> tuple[Double, Double]:
        outputs = _up(len(weight), _TILE)
        rows = inputs or _up(weight.shape[1], _TILE)
        return _padded(weight, outputs, rows).T, _padded(bias, outputs)

    steps = len(config.keypoint_encoder) + 1
    for i in range(steps):
        yield padded(*_layer(arrays, f"matcher.kenc.encoder.{2 * i}"), inputs=0 if i else 3)
    if config.descriptor_dim != config.width:
        yield padded(*_layer(arrays, "matcher.input_proj"), inputs=config.descriptor_dim)
    for i, layer in enumerate(config.layers):
        name = f"matcher.gnn.layers.{i}"
        for j, scale in enumerate((layer.head_dim**-0.5, 1.0, 1.0)):
            weight, bias = _layer(arrays, f"{name}.attn.proj.{j}")
            yield padded(_by_head(weight, layer) * scale, _by_head(bias, layer) * scale)
        merge, merge_bias = _layer(arrays, f"{name}.attn.merge")
        weight, bias = _layer(arrays, f"{name}.mlp.0")
        old, new = np.split(weight, [config.width], axis=1)
        yield padded(old, bias + new @ merge_bias)
        # The merge projection is a part of the first layer of the MLP.
        yield padded(_by_head((new @ merge).T, layer).T, np.zeros_like(bias))
        yield padded(*_layer(arrays, f"{name}.mlp.2"))
    weight, bias = _layer(arrays, "matcher.final_proj")
    scale = config.width**-0.25  # of both images: products are divided by √width
    yield padded(weight * scale, bias * scale)


def _by_head(array: Double, layer: AttentionConfig) -> Double:
    """Interleaved heads (c mod h, first axis) one after the other, each padded to whole tiles."""
    split = array.reshape(layer.head_dim, layer.heads, *array.shape[1:]).swapaxes(0, 1)
    width = _up(layer.head_dim, _TILE)
    split = _padded(split, layer.heads, width, *array.shape[1:])
    return split.reshape(layer.heads * width, *array.shape[1:])


def _layer(arrays: Arrays, name: str) -> tuple[Double, Double]:
    weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
    return weight.astype(np.float64), bias.astype(np.float64)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _padded(array: Double, *shape: int) -> Double:
    """The array with zeros at the end of each axis."""
    return np.pad(array, [(0, new - old) for old, new in zip(array.shape, shape, strict=True)])


def _tiles(weights: Double) -> list[Double]:
    """Weights (…, I, O) → for each leading index the tiles of 16 outputs, (I, 16) each."""
    rows = weights.reshape(-1, *weights.shape[-2:])
    return [part[:, j : j + _TILE] for part in rows for j in range(0, part.shape[1], _TILE)]


def _joined(parts: Iterable[NDArray[np.floating]]) -> Float:
    """All values one after the other as float32, aligned for the vector unit."""
    values = np.concatenate([part.reshape(-1) for part in parts]).astype(np.float32)
    buffer = np.empty(len(values) + _ALIGNMENT // 4, np.float32)
    start = -buffer.ctypes.data % _ALIGNMENT // 4
    aligned = buffer[start : start + len(values)]
    aligned[:] = values
    return aligned

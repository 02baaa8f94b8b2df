"""k-means quantization: the weights of a layer share the values of a small codebook.

Han, Mao and Dally, Deep Compression, ICLR 2016. The weights are sorted once. Clusters are then
intervals between midpoints of centroids, and their sums are differences of cumulative sums, so
that an iteration takes one binary search for each centroid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import CodebookTensor, Encoding, FloatType, group_of
from featherglue.artifact.layers import layers
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.quantization.linear import with_encodings
from featherglue.errors import ConfigError
from featherglue.models.model import Model

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Initialization = Literal["linear", "density", "random"]


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """Settings of k-means quantization.

    Attributes:
        bits: bits of an index, 2 to 8. A codebook has 2^bits values.
        channels: number of output channels that share a codebook; 0 uses one codebook for each
            layer.
        start: initial centroids (Han et al., section 3.2): "linear" spaces them evenly between the
            smallest and the largest weight, "density" at even quantiles of the weights, "random"
            draws them from the weights.
        iterations: maximum number of iterations.
        keep_zero: whether zero weights stay zero. If a group has any, one value is reserved.
        dtype: data type of the stored codebooks.
        seed: seed of "random".
        include: globs of layer names to quantize. Empty selects all layers.
        exclude: globs of layer names to leave out.

    Raises:
        ConfigError: a value is out of range.
    """

    bits: int = 4
    channels: int = 0
    start: Initialization = "linear"
    iterations: int = 1000
    keep_zero: bool = True
    dtype: FloatType = "float16"
    seed: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"bits of a codebook must be 2 to 8, not {self.bits}")
        if self.channels < 0:
            raise ConfigError(f"channels must be at least 0, not {self.channels}")
        if self.iterations < 1:
            raise ConfigError(f"iterations must be at least 1, not {self.iterations}")


def quantize_codebook(model: Model, config: CodebookConfig) -> Model:
    """Return a copy of the model whose selected layers are stored as codebooks.

    Raises:
        ConfigError: a glob matches no layer, or a weight overflows float16.
    """
    artifact = model.to_artifact()
    names = [layer.name for layer in layers(artifact.architecture)]
    selected = select_layers(names, names, config.include, config.exclude)
    encodings: dict[str, Encoding] = {}
    for i, name in enumerate(names):
        if name in selected:
            weight = artifact.arrays[f"{name}.weight"]
            rng = np.random.default_rng((config.seed, i))
            encodings[f"{name}.weight"] = cluster_weight(weight, config, rng)
    quantized = Model.from_artifact(with_encodings(artifact, encodings, {}))
    return replace(quantized, provenance=model.provenance)


def cluster_weight(
    weight: Float, config: CodebookConfig, rng: np.random.Generator
) -> CodebookTensor:
    """Quantize one weight (out, …).

    Raises:
        ConfigError: a centroid overflows float16.
    """
    groups = 1
    if config.channels:
        groups = max(1, len(weight) // config.channels)
    group = group_of(len(weight), groups)
    codes = np.zeros(weight.shape, np.uint8)
    codebook = np.zeros((groups, 2**config.bits), np.float32)
    keep_zero = config.keep_zero and bool((weight == 0).any())
    for g in range(groups):
        part = weight[group == g]
        free = 2**config.bits - keep_zero
        values = part[part != 0] if keep_zero else part.reshape(-1)
        centroids = kmeans(values, free, config.start, config.iterations, rng)
        with np.errstate(over="ignore"):
            found = centroids.astype(config.dtype).astype(np.float32)
        if not np.isfinite(found).all():
            raise ConfigError('a weight overflows float16; set dtype = "float32"')
        codebook[g, keep_zero:] = found
        nearest = nearest_centroid(part, found) + keep_zero
        codes[group == g] = np.where(part == 0, 0, nearest) if keep_zero else nearest
    return CodebookTensor(codes=codes, codebook=codebook, bits=config.bits, dtype=config.dtype)


def kmeans(
    values: Float, count: int, start: Initialization, iterations: int, rng: np.random.Generator
) -> Double:
    """Cluster values in one dimension.

    The centroid of an empty cluster moves into the cluster with the largest squared error, to the
    middle of its upper half.

    Args:
        values: (N,). If there are at most `count` distinct values, they are the centroids.
        count: number of centroids.
        start: initial centroids; see `CodebookConfig`.
        iterations: maximum number of iterations.
        rng: random numbers for start "random".

    Returns:
        Centroids in ascending order, (count,) float64.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        last = distinct[-1] if len(distinct) else 0.0
        return np.concatenate((distinct, np.full(count - len(distinct), last)))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    squares = np.concatenate(([0.0], np.cumsum(np.square(ordered))))
    centroids = _initial_centroids(ordered, distinct, count, start, rng)
    for _ in range(iterations):
        edges = _edges(ordered, centroids)
        sizes = np.diff(edges)
        totals = np.diff(sums[edges])
        means = np.where(sizes > 0, totals / np.maximum(sizes, 1), centroids)
        costs = np.diff(squares[edges]) - totals * means
        _refill(means, sizes, np.where(sizes > 1, costs, 0.0), edges, ordered)
        means.sort()
        if np.array_equal(means, centroids):
            break
        centroids = means
    return centroids


def _initial_centroids(
    ordered: Double, distinct: Double, count: int, start: Initialization, rng: np.random.Generator
) -> Double:
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if start == "density":
        return np.quantile(ordered, (np.arange(count) + 0.5) / count)
    return np.sort(rng.choice(distinct, count, replace=False))


def _edges(ordered: Double, centroids: Double) -> NDArray[np.int64]:
    """Return the index of the first value of each cluster, and the end: (count + 1,)."""
    midpoints = (centroids[1:] + centroids[:-1]) / 2
    inner = np.searchsorted(ordered, midpoints)
    return np.concatenate(([0], inner, [len(ordered)]))


def _refill(
    means: Double,
    sizes: NDArray[np.int64],
    costs: Double,
    edges: NDArray[np.int64],
    ordered: Double,
) -> None:
    """Move the centroids of empty clusters into the clusters with the largest costs, in place."""
    by_cost = np.argsort(-costs)
    for empty, full in zip(np.flatnonzero(sizes == 0), by_cost, strict=False):
        if costs[full] <= 0:
            return
        means[empty] = ordered[(edges[full] + 3 * edges[full + 1]) // 4]


def nearest_centroid(values: Float, centroids: Float) -> NDArray[np.uint8]:
    """Return the index of the nearest centroid for each value, in the shape of `values`.

    Args:
        values: any shape.
        centroids: (K,) in ascending order.
    """
    midpoints = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    return np.searchsorted(midpoints, values).astype(np.uint8)

"""k-means quantization (Han, Mao, Dally: Deep Compression, ICLR 2016): weights share a few values.

In one dimension the nearest of sorted centroids is found by the midpoints between them, and the
sums of sorted weights between two places are differences of running sums: an iteration costs a
binary search for each centroid, however many weights there are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import CodebookTensor, Encoding, FloatType, group_of
from featherglue.artifact.layers import layers
from featherglue.compression.layer_selection import select
from featherglue.compression.quantization.linear import with_encodings
from featherglue.errors import ConfigError
from featherglue.models.model import Model

Float = NDArray[np.float32]
Double = NDArray[np.float64]
Start = Literal["linear", "density", "random"]


@dataclass(frozen=True, kw_only=True)
class CodebookConfig:
    """How to quantize by k-means.

    Attributes:
        bits: of an index, 2 to 8: 2^bits values in a codebook.
        channels: output channels that share a codebook; 0 for one codebook a layer.
        start: centroids at first: "linear" evenly from the lowest to the highest weight, "density"
            at even shares of the weights, "random" at weights that are drawn.
        iterations: most of them; k-means mostly ends before.
        keep_zero: weights that are 0 stay 0, with a value of their own: where any are.
        dtype: of the codebooks.
        seed: of what is drawn.
        include: names of layers, with * and ?; none for all. exclude: taken out again.
    """

    bits: int = 4
    channels: int = 0
    start: Start = "linear"
    iterations: int = 1000
    keep_zero: bool = True
    dtype: FloatType = "float16"
    seed: int = 0
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ConfigError(f"codebooks have 2 to 8 bits, not {self.bits}")
        if self.channels < 0:
            raise ConfigError(f"channels cannot be negative, as {self.channels} is")
        if self.iterations < 1:
            raise ConfigError(f"iterations must be at least 1, not {self.iterations}")


def quantize_codebook(model: Model, config: CodebookConfig) -> Model:
    """A copy of the model whose chosen layers share weights.

    Raises:
        ConfigError: a name that matches no layer, or weights too large for float16.
    """
    artifact = model.to_artifact()
    names = [layer.name for layer in layers(artifact.architecture)]
    chosen = select(names, names, config.include, config.exclude)
    encodings: dict[str, Encoding] = {}
    for i, name in enumerate(names):
        if name in chosen:
            weight = artifact.arrays[f"{name}.weight"]
            rng = np.random.default_rng((config.seed, i))
            encodings[f"{name}.weight"] = cluster_weight(weight, config, rng)
    made = Model.from_artifact(with_encodings(artifact, encodings, {}))
    return replace(made, provenance=model.provenance)


def cluster_weight(
    weight: Float, config: CodebookConfig, rng: np.random.Generator
) -> CodebookTensor:
    """Codes and codebooks of one weight (out, …)."""
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
            raise ConfigError("a weight is too large for float16; store codebooks as float32")
        codebook[g, keep_zero:] = found
        nearest = nearest_centroid(part, found) + keep_zero
        codes[group == g] = np.where(part == 0, 0, nearest) if keep_zero else nearest
    return CodebookTensor(codes=codes, codebook=codebook, bits=config.bits, dtype=config.dtype)


def kmeans(
    values: Float, count: int, start: Start, iterations: int, rng: np.random.Generator
) -> Double:
    """Centroids of values, rising.

    A cluster that is left empty goes to where its share of the squared error is largest: into the
    middle of the upper half of the cluster that costs most.

    Args:
        values: (N,); fewer different ones than centroids are all kept as they are.
        count: of centroids.

    Returns:
        (count,) float64.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    distinct = np.unique(ordered)
    if len(distinct) <= count:
        last = distinct[-1] if len(distinct) else 0.0
        return np.concatenate((distinct, np.full(count - len(distinct), last)))
    sums = np.concatenate(([0.0], np.cumsum(ordered)))
    squares = np.concatenate(([0.0], np.cumsum(np.square(ordered))))
    centroids = _start(ordered, distinct, count, start, rng)
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


def _start(
    ordered: Double, distinct: Double, count: int, start: Start, rng: np.random.Generator
) -> Double:
    if start == "linear":
        return np.linspace(ordered[0], ordered[-1], count)
    if start == "density":
        return np.quantile(ordered, (np.arange(count) + 0.5) / count)
    return np.sort(rng.choice(distinct, count, replace=False))


def _edges(ordered: Double, centroids: Double) -> NDArray[np.int64]:
    """Where the values of each centroid begin, and the end: (count + 1,)."""
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
    """Move each empty cluster's centroid into the cluster that costs most, one into each."""
    dearest = np.argsort(-costs)
    for empty, dear in zip(np.flatnonzero(sizes == 0), dearest, strict=False):
        if costs[dear] <= 0:
            return
        means[empty] = ordered[(edges[dear] + 3 * edges[dear + 1]) // 4]


def nearest_centroid(values: Float, centroids: Float) -> NDArray[np.uint8]:
    """The index of the nearest of the centroids, which rise, for each value, in its shape."""
    midpoints = (centroids[1:].astype(np.float64) + centroids[:-1]) / 2
    return np.searchsorted(midpoints, values).astype(np.uint8)

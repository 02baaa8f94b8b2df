"""The two networks with sparse weights in C, as `runtime.sparse_weights` arranges them.

Results do not depend on the number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.native.library import MAX_THREADS, library, library_name, pointer
from featherglue.native.network_kernels import Extraction, memory

Float = NDArray[np.float32]

TILE = 32  # keypoints that are computed at once


@dataclass(frozen=True, kw_only=True, eq=False)
class PackedNetwork:
    """Weights of a network as the kernels read them.

    Attributes:
        plan: sizes, and positions in `indices` and `values`; see the C sources.
        indices: where the weights of an output begin, and their places in a tile.
        values: weights and biases.
        outputs: width of the descriptors of an extractor, or of the features of a matcher.
    """

    plan: NDArray[np.int64]
    indices: NDArray[np.int32]
    values: Float
    outputs: int


def runs_sparse_networks() -> bool:
    """Whether the kernels are compiled for this processor, which must have AVX2."""
    return library_name() == "libkernels_x86_64_v3"


def extract_sparse(
    network: PackedNetwork, image: NDArray[np.uint8], threads: int
) -> tuple[Float, Float]:
    """Scores (H, W) and descriptors (H/8, W/8, D); see `runtime.base.Runtime.extract`.

    Args:
        network: from `runtime.sparse_weights.pack_extractor`.
        image: (H, W) gray uint8.
        threads: maximum number of threads.
    """
    native = library()
    assert native is not None
    call = Extraction(image, network.outputs, threads)
    arrays: tuple[NDArray[Any], ...] = (network.plan, network.indices, network.values)
    size = native.extract_sparse_work_size(*map(pointer, arrays), *call.sizes)
    return call.run(native.extract_sparse, arrays, size)


def match_sparse(
    network: PackedNetwork,
    keypoints: tuple[Float, Float],
    descriptors: tuple[Float, Float],
    threads: int,
) -> Float:
    """The score matrix (N0, N1); see `runtime.base.Runtime.match`.

    Args:
        network: from `runtime.sparse_weights.pack_matcher`.
        keypoints: (N0, 3) and (N1, 3).
        descriptors: (N0, D) and (N1, D).
        threads: maximum number of threads.
    """
    native = library()
    assert native is not None
    counts = np.array([len(points) for points in keypoints], np.int64)
    threads = min(threads, MAX_THREADS)
    size = native.match_sparse_work_size(pointer(network.plan), *counts.tolist(), threads)
    work = memory.take(size)
    columns = -(-counts // TILE) * TILE
    scores = np.empty((columns[0], columns[1]), np.float32)
    places, tiled = (np.concatenate([_tiles(a) for a in both]) for both in (keypoints, descriptors))
    native.match_sparse(
        pointer(network.plan),
        pointer(network.indices),
        pointer(network.values),
        pointer(counts),
        pointer(places),
        pointer(tiled),
        threads,
        pointer(work),
        pointer(scores),
    )
    return scores[: counts[0], : counts[1]]


def _tiles(rows: Float) -> Float:
    """(N, C) → (tiles, C, TILE), padded with zeros."""
    count, channels = rows.shape
    padded = np.zeros((-(-count // TILE) * TILE, channels), np.float32)
    padded[:count] = rows
    return np.ascontiguousarray(padded.reshape(-1, TILE, channels).transpose(0, 2, 1))

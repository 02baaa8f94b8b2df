"""The networks in C, called with arrays of weights that `runtime.kernel_weights` arranges.

Results do not depend on the number of threads.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.native.library import MAX_THREADS, library, pointer

Float = NDArray[np.float32]
Plan = NDArray[np.int64]

_ROWS = 6  # of the score matrix that are computed at once
_MOST_KEPT = 2**25  # floats, of a buffer that outlives a call


class Memory(threading.local):
    """Memory of the networks, separate for each calling thread.

    It grows as needed and is kept for the next call. What a huge image needs is not kept.
    """

    buffer: Float | None = None

    def take(self, size: int) -> Float:
        """An uninitialized buffer of at least `size` elements; the next call may return it too."""
        if self.buffer is not None and len(self.buffer) >= size:
            return self.buffer
        buffer = np.empty(size, np.float32)
        if size <= _MOST_KEPT:
            self.buffer = buffer
        return buffer


memory = Memory()


class Extraction:
    """Input and output of an extractor.

    Attributes:
        image: (H, W) gray uint8, contiguous.
        sizes: H, W and the maximum number of threads.
        scores: (H, W).
        descriptors: (H/8, W/8, D).
    """

    def __init__(self, image: NDArray[np.uint8], dim: int, threads: int) -> None:
        self.image = np.ascontiguousarray(image)
        height, width = image.shape
        self.sizes = (height, width, min(threads, MAX_THREADS))
        self.scores = np.empty((height, width), np.float32)
        self.descriptors = np.empty((height // 8, width // 8, dim), np.float32)

    def run(
        self, kernel: Any, network: tuple[NDArray[Any], ...], work_size: int
    ) -> tuple[Float, Float]:
        """Call a kernel with the arrays of a network. Returns scores and descriptors."""
        work = memory.take(work_size)
        results = (self.scores, self.descriptors)
        packed, arrays = map(pointer, network), map(pointer, (work, *results))
        kernel(*packed, pointer(self.image), *self.sizes, *arrays)
        return results


def extract_network(
    plan: Plan, weights: Float, image: NDArray[np.uint8], threads: int
) -> tuple[Float, Float]:
    """Scores (H, W) and descriptors (H/8, W/8, D); see `runtime.base.Runtime.extract`.

    Args:
        plan: sizes of the layers; see extractor.c.
        weights: all weights and biases; see extractor.c.
        image: (H, W) gray uint8.
        threads: maximum number of threads.
    """
    native = library()
    assert native is not None
    call = Extraction(image, int(plan[-1]), threads)
    size = native.extract_work_size(pointer(plan), *call.sizes)
    return call.run(native.extract_network, (plan, weights), size)


def match_network(
    plan: Plan,
    weights: Float,
    keypoints: tuple[Float, Float],
    descriptors: tuple[Float, Float],
    threads: int,
    bfloat16: bool = False,
) -> Float:
    """The score matrix (N0, N1); see `runtime.base.Runtime.match`.

    Args:
        plan: sizes of the layers; see matcher.c.
        weights: all weights and biases; see matcher.c.
        keypoints: (N0, 3) and (N1, 3).
        descriptors: (N0, D) and (N1, D).
        threads: maximum number of threads.
        bfloat16: whether the attention layers multiply in bfloat16, if the processor can.
    """
    native = library()
    assert native is not None
    points = [np.ascontiguousarray(each, np.float32) for each in keypoints]
    described = [np.ascontiguousarray(each, np.float32) for each in descriptors]
    count0, count1 = map(len, points)
    threads = min(threads, MAX_THREADS)
    work = memory.take(native.match_work_size(pointer(plan), count0, count1, threads, bfloat16))
    rows = -(-count0 // _ROWS) * _ROWS
    scores = np.empty((rows, native.match_score_columns(count1)), np.float32)
    native.match_network(
        pointer(plan),
        pointer(weights),
        pointer(points[0]),
        pointer(described[0]),
        count0,
        pointer(points[1]),
        pointer(described[1]),
        count1,
        threads,
        bfloat16,
        pointer(work),
        pointer(scores),
    )
    return scores[:count0, :count1]

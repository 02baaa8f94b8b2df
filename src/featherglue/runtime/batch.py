"""Both images of a pair as one batch: the inputs of the matcher's graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
_PADDING_BIAS = np.float32(-1e9)


def matcher_inputs(
    keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
) -> dict[str, Float]:
    """Stack two images into a batch; the image with fewer keypoints is padded.

    Args:
        keypoints0: (N0, 3), as `Runtime.match` takes them.
        descriptors0: (N0, D).
        keypoints1: (N1, 3).
        descriptors1: (N1, D).

    Returns:
        keypoints (2, N, 3), descriptors (2, N, D) and bias (2, 1, N), with N = max(N0, N1). The
        bias is added to attention scores: a large negative number for padding, else 0.
    """
    counts = len(keypoints0), len(keypoints1)
    size = max(counts)
    bias = np.zeros((2, 1, size), np.float32)
    for i, count in enumerate(counts):
        bias[i, :, count:] = _PADDING_BIAS
    return {
        "keypoints": _stack(keypoints0, keypoints1, size),
        "descriptors": _stack(descriptors0, descriptors1, size),
        "bias": bias,
    }


def _stack(first: Float, second: Float, size: int) -> Float:
    both = np.zeros((2, size, first.shape[1]), np.float32)
    both[0, : len(first)] = first
    both[1, : len(second)] = second
    return both

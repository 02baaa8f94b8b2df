"""Sparse float tensors: the non-zero values and their positions."""

from __future__ import annotations

import math

import numpy as np

from featherglue.artifact.encodings.parts import (
    POSITIONS,
    VALUES,
    Float,
    FloatType,
    Parts,
    byte_part,
    checked_part,
)
from featherglue.artifact.encodings.positions import decode_positions, encode_positions
from featherglue.config import LayerStorage


def encode_sparse_float(array: Float, dtype: FloatType) -> tuple[LayerStorage, Parts] | None:
    """Encode a tensor without its zeros; None if that is not smaller than the dense tensor."""
    rounded = array.astype(dtype)
    kind, positions = encode_positions((rounded != 0).reshape(-1))
    values = rounded[rounded != 0]
    if positions.nbytes + values.nbytes >= rounded.nbytes:
        return None
    storage = LayerStorage(dtype=dtype, sparsity=float(np.mean(rounded == 0)), positions=kind)
    return storage, {VALUES: values, POSITIONS: positions}


def decode_sparse_float(storage: LayerStorage, parts: Parts, shape: tuple[int, ...]) -> Float:
    """The inverse of `encode_sparse_float`: float32. Raises ArtifactError for damaged parts."""
    assert storage.positions != "all"
    nonzero = decode_positions(storage.positions, byte_part(parts, POSITIONS), math.prod(shape))
    array = np.zeros(len(nonzero), np.float32)
    array[nonzero] = checked_part(parts, VALUES, storage.dtype, (int(nonzero.sum()),))
    return array.reshape(shape)

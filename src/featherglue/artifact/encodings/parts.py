"""Common parts of the encodings: arrays of an encoded tensor, groups and sparse codes."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings.positions import decode_positions, encode_positions
from featherglue.artifact.encodings.symbol_stream import (
    decode_stream,
    encode_stream,
    stream_coding,
)
from featherglue.config import LayerStorage
from featherglue.errors import ArtifactError, ConfigError

Float = NDArray[np.float32]
FloatType = Literal["float32", "float16"]
Parts = dict[str, NDArray[Any]]
"""The arrays of one encoded tensor, by the names below."""
VALUES, POSITIONS, SCALE, ZERO, CODEBOOK = "values", "positions", "scale", "zero", "codebook"


def group_of(channels: int, groups: int) -> NDArray[np.int64]:
    """Group index of each output channel, (channels,), ascending; groups differ by one at most."""
    return np.arange(channels) * groups // channels


def part_names(storage: LayerStorage) -> tuple[set[str], set[str]]:
    """Names of the required and of the optional parts of an encoded tensor."""
    if storage.scheme == "float":
        return (set(), set()) if storage.positions == "all" else ({VALUES, POSITIONS}, set())
    required = {VALUES, CODEBOOK if storage.scheme == "codebook" else SCALE}
    if storage.positions != "all":
        required.add(POSITIONS)
    return required, {ZERO} if storage.scheme == "linear" else set()


def encode_codes(
    scheme: Literal["linear", "codebook"],
    symbols: NDArray[np.uint8],
    nonzero: NDArray[np.bool_],
    bits: int,
    dtype: FloatType = "float32",
) -> tuple[LayerStorage, Parts]:
    """Encode the codes of a tensor densely, or as non-zeros with their positions if smaller.

    Args:
        symbols: codes in the tensor's shape, each in [0, 2^bits).
        nonzero: False where a code stands for 0, in the tensor's shape.
        dtype: number format of the codebook.
    """
    sparsity = 1 - float(np.mean(nonzero))
    values = encode_stream(symbols.reshape(-1), bits)
    parts: Parts = {VALUES: values}
    positions: Literal["all", "mask", "runs"] = "all"
    if sparsity:
        kind, encoded_positions = encode_positions(nonzero.reshape(-1))
        nonzero_values = encode_stream(symbols[nonzero], bits)
        if len(encoded_positions) + len(nonzero_values) < len(values):
            parts, positions = {VALUES: nonzero_values, POSITIONS: encoded_positions}, kind
    storage = LayerStorage(
        scheme=scheme,
        dtype=dtype,
        bits=bits,
        sparsity=sparsity,
        positions=positions,
        coding=stream_coding(parts[VALUES]),
    )
    return storage, parts


def decode_codes(
    storage: LayerStorage, parts: Parts, shape: tuple[int, ...], zeros: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The inverse of `encode_codes`, in the tensor's shape.

    Args:
        zeros: (N,) the code that stands for 0, for each element of the flat tensor.

    Raises:
        ArtifactError: the parts are inconsistent with `storage` or damaged.
    """
    values = byte_part(parts, VALUES)
    if stream_coding(values) != storage.coding:
        raise ArtifactError(f"its values are not {storage.coding}, contrary to config.json")
    if storage.positions == "all":
        return decode_stream(values, storage.bits, math.prod(shape)).reshape(shape)
    nonzero = decode_positions(storage.positions, byte_part(parts, POSITIONS), math.prod(shape))
    codes = zeros.copy()
    codes[nonzero] = decode_stream(values, storage.bits, int(nonzero.sum()))
    return codes.reshape(shape)


def checked_part(parts: Parts, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A part of the expected dtype and shape. Raises ArtifactError if it has others."""
    array = parts[name]
    if array.dtype != dtype or array.shape != shape:
        raise ArtifactError(
            f"its {name} is {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
        )
    return array


def byte_part(parts: Parts, name: str) -> NDArray[np.uint8]:
    """A part that is a byte string. Raises ArtifactError if it is not."""
    return checked_part(parts, name, np.uint8, (parts[name].size,))


def require(condition: bool, message: str) -> None:
    """Raise ConfigError unless the condition holds."""
    if not condition:
        raise ConfigError(message)


def check_groups(codes: NDArray[Any], groups: int) -> None:
    """Raise ConfigError unless the first axis of the codes can be divided into the groups."""
    fits = codes.ndim >= 1 and 1 <= groups <= len(codes)
    require(fits, f"{groups} groups do not fit a tensor of shape {codes.shape}")

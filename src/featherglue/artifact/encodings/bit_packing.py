"""Packing of integers of 1 to 8 bits without gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ArtifactError

Bytes = NDArray[np.uint8]


def packed_size(count: int, bits: int) -> int:
    """Number of bytes of `count` packed integers of `bits` bits."""
    return (count * bits + 7) // 8


def pack_bits(values: NDArray[np.integer], bits: int) -> Bytes:
    """Pack integers, most significant bit first; the last byte is padded with zeros.

    Args:
        values: (N,), each in [0, 2^bits).
        bits: 1 to 8.

    Returns:
        (ceil(N·bits / 8),) uint8.
    """
    flat = np.ascontiguousarray(values, np.uint8).reshape(-1, 1)
    if bits == 8:
        return flat.reshape(-1)
    return np.packbits(np.unpackbits(flat, axis=1)[:, 8 - bits :].reshape(-1))


def unpack_bits(data: Bytes, bits: int, count: int) -> Bytes:
    """The inverse of `pack_bits`: (count,) uint8.

    Raises:
        ArtifactError: the length of the data does not match `count`.
    """
    if len(data) != packed_size(count, bits):
        raise ArtifactError(
            f"{count} integers of {bits} bits take {packed_size(count, bits)} bytes, "
            f"not {len(data)}"
        )
    if bits == 8:
        return np.array(data, np.uint8)
    single = np.unpackbits(data, count=count * bits).reshape(count, bits)
    return np.packbits(np.pad(single, ((0, 0), (8 - bits, 0))), axis=1).reshape(-1)

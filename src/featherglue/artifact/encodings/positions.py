"""Positions of the non-zero elements of a sparse tensor, as a bit mask or as run lengths."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings.bit_packing import Bytes
from featherglue.artifact.encodings.symbol_stream import decode_stream, encode_stream
from featherglue.errors import ArtifactError

PositionCoding = Literal["mask", "runs"]
_ESCAPE = 255  # a run of 255 zeros that continues with the next symbol


def encode_positions(nonzero: NDArray[np.bool_]) -> tuple[PositionCoding, Bytes]:
    """Encode which of (N,) elements are non-zero, in the smaller of two codings.

    "mask" is one bit for each element. "runs" are the numbers of zeros before each non-zero
    element, the relative indices of Deep Compression (Han et al. 2016), preceded by the number of
    symbols as uint32 little-endian. Both are streams of bytes; see `encode_stream`.
    """
    mask = np.packbits(nonzero)
    positions = np.flatnonzero(nonzero)
    gaps = np.diff(positions, prepend=-1) - 1
    escapes = gaps // _ESCAPE
    symbols = np.full(int(escapes.sum()) + len(gaps), _ESCAPE, np.uint8)
    symbols[np.cumsum(escapes + 1) - 1] = gaps % _ESCAPE
    length = np.array([len(symbols)], "<u4").view(np.uint8)
    runs = np.concatenate((length, encode_stream(symbols, 8)))
    coded_mask = encode_stream(mask, 8)
    return ("runs", runs) if len(runs) < len(coded_mask) else ("mask", coded_mask)


def decode_positions(coding: PositionCoding, data: Bytes, count: int) -> NDArray[np.bool_]:
    """The inverse of `encode_positions`: (count,) bool.

    Raises:
        ArtifactError: the data is damaged or does not match `count`.
    """
    if coding == "mask":
        mask = decode_stream(data, 8, (count + 7) // 8)
        return np.unpackbits(mask, count=count).astype(np.bool_)
    if data.dtype != np.uint8 or data.ndim != 1 or len(data) < 5:
        raise ArtifactError("the positions of the non-zero values are truncated")
    length = int(data[:4].copy().view("<u4")[0])
    if length > count + count // _ESCAPE:
        raise ArtifactError("there are more positions of non-zero values than elements")
    symbols = decode_stream(data[4:], 8, length)
    ends = np.cumsum(np.where(symbols == _ESCAPE, _ESCAPE, symbols.astype(np.int64) + 1))
    positions = ends[symbols != _ESCAPE] - 1
    if len(positions) and positions[-1] >= count:
        raise ArtifactError("a position of a non-zero value lies outside of the tensor")
    nonzero = np.zeros(count, np.bool_)
    nonzero[positions] = True
    return nonzero

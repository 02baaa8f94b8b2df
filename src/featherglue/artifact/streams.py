"""Streams of symbols, and the places of what is not zero: each in the smaller of two codings.

The first byte of a stream tells its coding.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.bits import pack_bits, unpack_bits
from featherglue.artifact.huffman import huffman_decode, huffman_encode
from featherglue.errors import ArtifactError

Bytes = NDArray[np.uint8]
Coding = Literal["packed", "huffman"]
Positions = Literal["mask", "runs"]
CODINGS: tuple[Coding, ...] = ("packed", "huffman")
_ESCAPE = 255  # so many zeros, and more to come


def encode_stream(symbols: Bytes, bits: int) -> Bytes:
    """Symbols (N,) of `bits` bits, packed or Huffman-coded, whichever is smaller."""
    streams = [pack_bits(symbols, bits), huffman_encode(symbols, bits)]
    best = int(np.argmin([len(stream) for stream in streams]))
    return np.concatenate((np.array([best], np.uint8), streams[best]))


def stream_coding(data: Bytes) -> Coding:
    """How a stream is coded.

    Raises:
        ArtifactError: in none of the known ways.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or not len(data) or data[0] >= len(CODINGS):
        raise ArtifactError("not a stream of symbols")
    return CODINGS[int(data[0])]


def decode_stream(data: Bytes, bits: int, count: int) -> Bytes:
    """The inverse of `encode_stream`: (count,) uint8.

    Raises:
        ArtifactError: not a stream of `count` such symbols.
    """
    decode = unpack_bits if stream_coding(data) == "packed" else huffman_decode
    return decode(data[1:], bits, count)


def encode_positions(present: NDArray[np.bool_]) -> tuple[Positions, Bytes]:
    """Which of (N,) entries are there: a bit for each, or the lengths of the runs between them.

    Runs are the relative indices of Deep Compression (Han et al. 2016). They come with their
    number, uint32 little-endian.
    """
    mask = np.packbits(present)
    places = np.flatnonzero(present)
    gaps = np.diff(places, prepend=-1) - 1
    full = gaps // _ESCAPE
    symbols = np.full(int(full.sum()) + len(gaps), _ESCAPE, np.uint8)
    symbols[np.cumsum(full + 1) - 1] = gaps % _ESCAPE
    number = np.array([len(symbols)], "<u4").view(np.uint8)
    runs = np.concatenate((number, encode_stream(symbols, 8)))
    coded = encode_stream(mask, 8)
    return ("runs", runs) if len(runs) < len(coded) else ("mask", coded)


def decode_positions(kind: Positions, data: Bytes, count: int) -> NDArray[np.bool_]:
    """The inverse of `encode_positions`: (count,) bool.

    Raises:
        ArtifactError: the data does not fit `count`.
    """
    if kind == "mask":
        mask = decode_stream(data, 8, (count + 7) // 8)
        return np.unpackbits(mask, count=count).astype(np.bool_)
    if data.dtype != np.uint8 or data.ndim != 1 or len(data) < 5:
        raise ArtifactError("the places of what is not zero are cut off")
    number = int(data[:4].copy().view("<u4")[0])
    if number > count + count // _ESCAPE:
        raise ArtifactError("more places of what is not zero than there can be")
    symbols = decode_stream(data[4:], 8, number)
    ends = np.cumsum(np.where(symbols == _ESCAPE, _ESCAPE, symbols.astype(np.int64) + 1))
    places = ends[symbols != _ESCAPE] - 1
    if len(places) and places[-1] >= count:
        raise ArtifactError("the places of what is not zero lie outside of the tensor")
    present = np.zeros(count, np.bool_)
    present[places] = True
    return present

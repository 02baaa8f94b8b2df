"""Streams of symbols, bit-packed or Huffman-coded, whichever is smaller.

The first byte of a stream is the index of its coding in `CODINGS`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from featherglue.artifact.encodings.bit_packing import Bytes, pack_bits, unpack_bits
from featherglue.artifact.encodings.huffman import huffman_decode, huffman_encode
from featherglue.errors import ArtifactError

Coding = Literal["packed", "huffman"]
CODINGS: tuple[Coding, ...] = ("packed", "huffman")


def encode_stream(symbols: Bytes, bits: int) -> Bytes:
    """Encode symbols (N,) uint8, each in [0, 2^bits)."""
    streams = [pack_bits(symbols, bits), huffman_encode(symbols, bits)]
    best = int(np.argmin([len(stream) for stream in streams]))
    return np.concatenate((np.array([best], np.uint8), streams[best]))


def stream_coding(data: Bytes) -> Coding:
    """The coding of a stream.

    Raises:
        ArtifactError: the data is not a stream.
    """
    if data.dtype != np.uint8 or data.ndim != 1 or not len(data) or data[0] >= len(CODINGS):
        raise ArtifactError("not a stream of symbols")
    return CODINGS[int(data[0])]


def decode_stream(data: Bytes, bits: int, count: int) -> Bytes:
    """The inverse of `encode_stream`: (count,) uint8.

    Raises:
        ArtifactError: the data is not a stream of `count` symbols of `bits` bits.
    """
    decode = unpack_bits if stream_coding(data) == "packed" else huffman_decode
    return decode(data[1:], bits, count)

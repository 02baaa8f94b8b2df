"""Canonical Huffman coding of symbols of up to 8 bits (Huffman 1952; as in Han et al. 2016).

A stream is divided into blocks whose start is stored, so that NumPy decodes one symbol of all
blocks at a time. Codes have at most 12 bits (package-merge, Larmore and Hirschberg 1990), so that
one small table decodes them.

Layout: the code length of each symbol of the alphabet, 4 bits each (0 if it does not occur); the
length in bits of each block of 1024 symbols, uint16 little-endian; the blocks without gaps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings.bit_packing import Bytes, pack_bits, packed_size, unpack_bits
from featherglue.errors import ArtifactError

MAX_BITS = 12
BLOCK = 1024


def code_lengths(counts: NDArray[np.integer], max_bits: int = MAX_BITS) -> Bytes:
    """Code lengths of the optimal prefix code with at most `max_bits` bits, by package-merge.

    Args:
        counts: (K,) number of occurrences of each symbol.

    Returns:
        (K,) uint8: 0 for symbols that do not occur; 1 if only one symbol occurs.
    """
    used = [int(symbol) for symbol in np.flatnonzero(counts)]
    lengths = np.zeros(len(counts), np.uint8)
    if len(used) == 1:
        lengths[used] = 1
        return lengths
    single: list[tuple[int, tuple[int, ...]]] = sorted(
        (int(counts[symbol]), (symbol,)) for symbol in used
    )
    row = single
    for _ in range(max_bits - 1):
        pairs = [
            (row[i][0] + row[i + 1][0], row[i][1] + row[i + 1][1])
            for i in range(0, len(row) - 1, 2)
        ]
        row = sorted(single + pairs)
    for _, symbols in row[: 2 * len(used) - 2]:
        for symbol in symbols:
            lengths[symbol] += 1
    return lengths


def _codes(lengths: Bytes) -> NDArray[np.uint32]:
    """The canonical code of each symbol: codes ascend by length, then by symbol."""
    codes = np.zeros(len(lengths), np.uint32)
    code = previous = 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length:
            code <<= length - previous
            codes[symbol], previous = code, length
            code += 1
    return codes


def huffman_encode(symbols: Bytes, bits: int) -> Bytes:
    """Encode symbols (N,) uint8, each in [0, 2^bits)."""
    lengths = code_lengths(np.bincount(symbols, minlength=2**bits))
    length = lengths[symbols]
    ends = np.cumsum(length, dtype=np.int64)
    starts = ends - length
    codes = _codes(lengths)[symbols]
    stream = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for bit in range(int(length.max(initial=0))):
        longer = length > bit
        shift = length[longer] - 1 - bit
        stream[starts[longer] + bit] = (codes[longer] >> shift) & 1
    edges = np.append(starts[::BLOCK], len(stream))
    blocks = np.diff(edges).astype("<u2").view(np.uint8)
    return np.concatenate((pack_bits(lengths, 4), blocks, np.packbits(stream)))


def huffman_decode(data: Bytes, bits: int, count: int) -> Bytes:
    """The inverse of `huffman_encode`: (count,) uint8.

    Raises:
        ArtifactError: the data is not a stream of `count` symbols of `bits` bits.
    """
    table_size, blocks = packed_size(2**bits, 4), -(-count // BLOCK)
    header = table_size + 2 * blocks
    if len(data) < header:
        raise ArtifactError("a Huffman stream is truncated")
    symbol_of, length_of = _table(unpack_bits(data[:table_size], 4, 2**bits))
    sizes = data[table_size:header].copy().view("<u2").astype(np.int64)
    if len(data) - header != packed_size(int(sizes.sum()), 1):
        raise ArtifactError("the length of a Huffman stream differs from that of its blocks")
    words = _words(data[header:])
    ends = np.cumsum(sizes)
    position = ends - sizes
    decoded = np.zeros((min(count, BLOCK), blocks), np.uint8)
    for step in range(len(decoded)):
        active = blocks - 1 if count - (blocks - 1) * BLOCK <= step else blocks
        bit = position[:active]  # a view: advancing it advances `position`
        window = words[np.minimum(bit >> 3, len(words) - 1)] >> (32 - MAX_BITS - (bit & 7))
        window &= (1 << MAX_BITS) - 1
        decoded[step, :active] = symbol_of[window]
        bit += length_of[window]
    if (position != ends).any():
        raise ArtifactError("a Huffman stream does not end at the end of its blocks")
    return decoded.T.reshape(-1)[:count]


def _table(lengths: Bytes) -> tuple[Bytes, NDArray[np.int64]]:
    """Decoding table: symbol and code length for each value of the next `MAX_BITS` bits.

    The code length is 0 for values that start with no code.

    Raises:
        ArtifactError: the lengths are not those of a prefix code.
    """
    used = lengths[lengths > 0].astype(np.int64)
    filled = int((1 << (MAX_BITS - used)).sum()) if used.max(initial=0) <= MAX_BITS else 0
    if len(used) and filled != 1 << MAX_BITS and not (len(used) == 1 and used[0] == 1):
        raise ArtifactError("the code lengths of a Huffman code are inconsistent")
    symbol_of = np.zeros(1 << MAX_BITS, np.uint8)
    length_of = np.zeros(1 << MAX_BITS, np.int64)
    codes = _codes(lengths)
    for symbol in np.flatnonzero(lengths):
        length = int(lengths[symbol])
        first = int(codes[symbol]) << (MAX_BITS - length)
        span = slice(first, first + (1 << (MAX_BITS - length)))
        symbol_of[span], length_of[span] = symbol, length
    return symbol_of, length_of


def _words(stream: Bytes) -> NDArray[np.int64]:
    """The 32-bit big-endian word at each byte offset, and one more at the end: (bytes + 1,)."""
    padded = np.concatenate((stream, np.zeros(4, np.uint8))).astype(np.int64)
    return padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]

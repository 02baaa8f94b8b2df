"""Canonical Huffman coding of symbols of up to 8 bits (Huffman 1952; as in Han et al. 2016).

A stream is cut into blocks that start at known bits, so that NumPy decodes all blocks side by
side, one symbol of each at a time. Codes are at most 12 bits long (package-merge, Larmore and
Hirschberg 1990), so that one small table decodes them.

Layout: the code length of every symbol of the alphabet, 4 bits each (0: not used); the length in
bits of every block of 1024 symbols, uint16 little-endian; the blocks, without gaps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.bits import pack_bits, packed_size, unpack_bits
from featherglue.errors import ArtifactError

Bytes = NDArray[np.uint8]
LONGEST = 12
BLOCK = 1024


def code_lengths(counts: NDArray[np.integer], longest: int = LONGEST) -> Bytes:
    """Lengths of the best prefix code with no code longer than `longest` bits.

    Args:
        counts: (K,) how often each symbol occurs.

    Returns:
        (K,) uint8: 0 for symbols that do not occur; 1 where only one does.
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
    for _ in range(longest - 1):
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
    """The canonical code of each symbol: shorter ones first, then by symbol."""
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
    """Encode (N,) symbols of an alphabet of 2^bits."""
    lengths = code_lengths(np.bincount(symbols, minlength=2**bits))
    each = lengths[symbols]
    ends = np.cumsum(each, dtype=np.int64)
    starts = ends - each
    codes = _codes(lengths)[symbols]
    stream = np.zeros(int(ends[-1]) if len(ends) else 0, np.uint8)
    for place in range(int(each.max(initial=0))):
        longer = each > place
        shift = each[longer] - 1 - place
        stream[starts[longer] + place] = (codes[longer] >> shift) & 1
    edges = np.append(starts[::BLOCK], len(stream))
    blocks = np.diff(edges).astype("<u2").view(np.uint8)
    return np.concatenate((pack_bits(lengths, 4), blocks, np.packbits(stream)))


def huffman_decode(data: Bytes, bits: int, count: int) -> Bytes:
    """The inverse of `huffman_encode`: (count,) uint8.

    Raises:
        ArtifactError: not a stream of `count` such symbols.
    """
    table_size, blocks = packed_size(2**bits, 4), -(-count // BLOCK)
    head = table_size + 2 * blocks
    if len(data) < head:
        raise ArtifactError("a Huffman stream is cut off")
    symbol_of, length_of = _table(unpack_bits(data[:table_size], 4, 2**bits))
    sizes = data[table_size:head].copy().view("<u2").astype(np.int64)
    if len(data) - head != packed_size(int(sizes.sum()), 1):
        raise ArtifactError("a Huffman stream has another length than its blocks")
    words = _words(data[head:])
    ends = np.cumsum(sizes)
    position = ends - sizes
    decoded = np.zeros((min(count, BLOCK), blocks), np.uint8)
    for step in range(len(decoded)):
        active = blocks - 1 if count - (blocks - 1) * BLOCK <= step else blocks
        at = position[:active]
        peek = words[np.minimum(at >> 3, len(words) - 1)] >> (32 - LONGEST - (at & 7))
        peek &= (1 << LONGEST) - 1
        decoded[step, :active] = symbol_of[peek]
        at += length_of[peek]
    if (position != ends).any():
        raise ArtifactError("a Huffman stream does not end where its blocks do")
    return decoded.T.reshape(-1)[:count]


def _table(lengths: Bytes) -> tuple[Bytes, NDArray[np.int64]]:
    """Symbol and code length for each value of the next `LONGEST` bits; 0 bits for no code.

    Raises:
        ArtifactError: lengths that are not those of a prefix code.
    """
    used = lengths[lengths > 0].astype(np.int64)
    filled = int((1 << (LONGEST - used)).sum()) if used.max(initial=0) <= LONGEST else 0
    if len(used) and filled != 1 << LONGEST and not (len(used) == 1 and used[0] == 1):
        raise ArtifactError("the lengths of a Huffman code do not fit together")
    symbol_of = np.zeros(1 << LONGEST, np.uint8)
    length_of = np.zeros(1 << LONGEST, np.int64)
    codes = _codes(lengths)
    for symbol in np.flatnonzero(lengths):
        length = int(lengths[symbol])
        first = int(codes[symbol]) << (LONGEST - length)
        span = slice(first, first + (1 << (LONGEST - length)))
        symbol_of[span], length_of[span] = symbol, length
    return symbol_of, length_of


def _words(stream: Bytes) -> NDArray[np.int64]:
    """The 32 bits from each byte on, big-endian; one more than there are bytes."""
    padded = np.concatenate((stream, np.zeros(4, np.uint8))).astype(np.int64)
    return padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]

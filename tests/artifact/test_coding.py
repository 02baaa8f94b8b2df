"""Bit packing, Huffman coding and positions: exact round trips; damaged data raises."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.artifact.encodings.bit_packing import pack_bits, packed_size, unpack_bits
from featherglue.artifact.encodings.huffman import (
    BLOCK,
    MAX_BITS,
    code_lengths,
    huffman_decode,
    huffman_encode,
)
from featherglue.artifact.encodings.positions import decode_positions, encode_positions
from featherglue.artifact.encodings.symbol_stream import (
    decode_stream,
    encode_stream,
    stream_coding,
)
from featherglue.errors import ArtifactError

COUNTS = (0, 1, 7, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 3)


def peaked(count: int, bits: int, seed: int = 0) -> np.ndarray:
    """Normally distributed symbols, as quantized weights are."""
    rng = np.random.default_rng(seed)
    middle = 2 ** (bits - 1)
    drawn = np.rint(rng.standard_normal(count) * middle / 6 + middle)
    return np.clip(drawn, 0, 2**bits - 1).astype(np.uint8)


@pytest.mark.parametrize("bits", range(1, 9))
def test_bit_packing_round_trip(bits: int) -> None:
    for count in COUNTS:
        values = np.random.default_rng(count).integers(0, 2**bits, count).astype(np.uint8)
        packed = pack_bits(values, bits)
        assert len(packed) == packed_size(count, bits) == -(-count * bits // 8)
        np.testing.assert_array_equal(unpack_bits(packed, bits, count), values)
    with pytest.raises(ArtifactError, match="take"):
        unpack_bits(pack_bits(np.arange(8) % 2**bits, bits)[:-1], bits, 8)


def test_bits_are_packed_in_order() -> None:
    np.testing.assert_array_equal(pack_bits(np.array([0b101, 0b011, 0b111]), 3), [0b10101111, 128])


@pytest.mark.parametrize("bits", [1, 2, 5, 8])
def test_huffman_round_trip(bits: int) -> None:
    for count in COUNTS:
        symbols = peaked(count, bits, seed=count)
        stream = huffman_encode(symbols, bits)
        np.testing.assert_array_equal(huffman_decode(stream, bits, count), symbols)
    for symbol in (0, 2**bits - 1):  # a single symbol
        alone = np.full(3000, symbol, np.uint8)
        stream = huffman_encode(alone, bits)
        np.testing.assert_array_equal(huffman_decode(stream, bits, 3000), alone)


def test_code_lengths_are_optimal() -> None:
    """Kraft's sum is 1, frequent symbols have short codes, and the rate is close to the entropy."""
    counts = np.bincount(peaked(50_000, 6), minlength=64)
    lengths = code_lengths(counts)
    used = counts > 0
    assert (lengths[~used] == 0).all()
    assert np.sum(2.0 ** -lengths[used].astype(float)) == 1
    order = np.argsort(-counts[used], kind="stable")
    assert (np.diff(lengths[used][order].astype(int)) >= 0).all()
    share = counts[used] / counts.sum()
    entropy = -np.sum(share * np.log2(share))
    assert entropy <= np.sum(share * lengths[used]) < entropy + 0.05
    # Fibonacci counts give the longest codes: 29 bits without a limit.
    fibonacci = [1, 1]
    while len(fibonacci) < 30:
        fibonacci.append(fibonacci[-1] + fibonacci[-2])
    lengths = code_lengths(np.array(fibonacci))
    assert lengths.max() == MAX_BITS
    assert np.sum(2.0 ** -lengths.astype(float)) == 1


def test_damaged_streams_raise() -> None:
    symbols = peaked(3000, 5)
    stream = huffman_encode(symbols, 5)
    for damaged, message in (
        (stream[:10], "truncated"),
        (stream[:-1], "length of a Huffman stream differs"),
        (np.append(stream, np.uint8(0)), "length of a Huffman stream differs"),
    ):
        with pytest.raises(ArtifactError, match=message):
            huffman_decode(damaged, 5, 3000)
    wrong = stream.copy()
    wrong[:16] = 0x11  # a code of one bit for every symbol
    with pytest.raises(ArtifactError, match="inconsistent"):
        huffman_decode(wrong, 5, 3000)
    flipped = 0
    for place in range(22, len(stream), 40):  # after the tables
        wrong = stream.copy()
        wrong[place] ^= 0xFF
        try:
            assert (huffman_decode(wrong, 5, 3000) != symbols).any()
        except ArtifactError as error:
            assert "does not end at" in str(error)
            flipped += 1
    assert flipped > 10


def test_the_smaller_coding_is_chosen() -> None:
    flat = np.arange(4096).astype(np.uint8) % 16
    assert stream_coding(encode_stream(flat, 4)) == "packed"
    skewed = peaked(4096, 4)
    stream = encode_stream(skewed, 4)
    assert stream_coding(stream) == "huffman"
    assert len(stream) < packed_size(4096, 4)
    for symbols in (flat, skewed):
        np.testing.assert_array_equal(decode_stream(encode_stream(symbols, 4), 4, 4096), symbols)
    for odd in (np.zeros(0, np.uint8), np.array([9], np.uint8), np.zeros(4, np.float32)):
        with pytest.raises(ArtifactError, match="not a stream"):
            stream_coding(odd)  # type: ignore[arg-type]


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 1.0])
def test_positions_round_trip(share: float) -> None:
    for count in (1, 9, 4000, 60_000):
        nonzero = np.random.default_rng(count).random(count) < share
        kind, data = encode_positions(nonzero)
        np.testing.assert_array_equal(decode_positions(kind, data, count), nonzero)


def test_few_positions_are_stored_as_runs() -> None:
    nonzero = np.zeros(100_000, np.bool_)
    nonzero[np.random.default_rng(0).choice(100_000, 300, replace=False)] = True
    kind, data = encode_positions(nonzero)
    assert kind == "runs"
    assert len(data) < 1200  # a bit mask takes 12,500 bytes
    with pytest.raises(ArtifactError, match="truncated"):
        decode_positions("runs", data[:3], 100_000)
    with pytest.raises(ArtifactError, match="outside"):
        decode_positions("runs", data, 50_000)
    with pytest.raises(ArtifactError, match="more positions"):
        decode_positions("runs", data, 100)

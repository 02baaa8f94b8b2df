"""Quantized tensors: what they stand for, and the arrays that hold them in a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.streams import (
    decode_positions,
    decode_stream,
    encode_positions,
    encode_stream,
    stream_coding,
)
from featherglue.config import ActivationStorage, LayerStorage
from featherglue.errors import ArtifactError, ConfigError

Float = NDArray[np.float32]
Parts = dict[str, NDArray[Any]]
FloatType = Literal["float32", "float16"]
VALUES, POSITIONS, SCALE, ZERO, CODEBOOK = "values", "positions", "scale", "zero", "codebook"


def group_of(channels: int, groups: int) -> NDArray[np.int64]:
    """Which group each of the output channels belongs to: (channels,), rising from 0."""
    return np.arange(channels) * groups // channels


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearTensor:
    """Whole numbers of equal steps: x = (q − zero)·scale (Jacob et al. 2018).

    Attributes:
        codes: int8, in the tensor's shape, each in [−2^(bits−1), 2^(bits−1)).
        scale: (G,) float32, above 0. zero: (G,) int16, in the range of the codes.
        bits: 4 to 8. The first axis is shared out evenly among the G groups.
    """

    codes: NDArray[np.int8]
    scale: Float
    zero: NDArray[np.int16]
    bits: int

    def __post_init__(self) -> None:
        groups, half = len(self.scale), 2 ** (self.bits - 1)
        _check(4 <= self.bits <= 8, f"linear quantization has 4 to 8 bits, not {self.bits}")
        _check_groups(self.codes, groups)
        _check(self.zero.shape == self.scale.shape == (groups,), "a zero point for each scale")
        _check(bool(np.isfinite(self.scale).all() and (self.scale > 0).all()), "scales above 0")
        for name, array in (("codes", self.codes), ("zero points", self.zero)):
            inside = (array >= -half).all() and (array < half).all()
            _check(bool(inside), f"{name} outside of {self.bits} bits")

    @property
    def symmetric(self) -> bool:
        """Whether 0 stands for 0 everywhere."""
        return not self.zero.any()

    def decode(self) -> Float:
        """What the codes stand for, in the tensor's shape."""
        group = group_of(len(self.codes), len(self.scale))
        shape = (-1, *[1] * (self.codes.ndim - 1))
        steps = self.codes.astype(np.int16) - self.zero[group].reshape(shape)
        return steps.astype(np.float32) * self.scale[group].reshape(shape)

    def store(self) -> tuple[LayerStorage, Parts]:
        """How it goes into a file, and the arrays there."""
        group = group_of(len(self.codes), len(self.scale))
        empty = np.broadcast_to(
            self.zero[group].reshape(-1, *[1] * (self.codes.ndim - 1)), self.codes.shape
        )
        symbols = (self.codes.astype(np.int16) + 2 ** (self.bits - 1)).astype(np.uint8)
        storage, parts = _store_codes("linear", symbols, self.codes != empty, self.bits)
        parts[SCALE] = self.scale
        if not self.symmetric:
            parts[ZERO] = self.zero
        return replace(storage, groups=len(self.scale)), parts

    @staticmethod
    def read(storage: LayerStorage, parts: Parts, shape: tuple[int, ...]) -> LinearTensor:
        """The inverse of `store`. Raises ArtifactError."""
        scale = _part(parts, SCALE, np.float32, (storage.groups,))
        zero = np.zeros(storage.groups, np.int16)
        if ZERO in parts:
            zero = _part(parts, ZERO, np.int16, (storage.groups,))
        half = 2 ** (storage.bits - 1)
        group = group_of(shape[0], storage.groups) if shape else np.zeros(1, np.int64)
        empty = np.repeat(zero[group] + half, math.prod(shape[1:])).astype(np.uint8)
        codes = _read_codes(storage, parts, shape, empty)
        codes = (codes.astype(np.int16) - half).astype(np.int8)
        return LinearTensor(codes=codes, scale=scale, zero=zero, bits=storage.bits)


@dataclass(frozen=True, kw_only=True, eq=False)
class CodebookTensor:
    """Indices into codebooks (Deep Compression, Han et al. 2016).

    Attributes:
        codes: uint8, in the tensor's shape, each below 2^bits.
        codebook: (G, 2^bits) float32; the first axis is shared out evenly among the G groups.
        bits: 2 to 8.
        dtype: in which the codebook is stored; its values are exact in it.
    """

    codes: NDArray[np.uint8]
    codebook: Float
    bits: int
    dtype: FloatType = "float16"

    def __post_init__(self) -> None:
        _check(2 <= self.bits <= 8, f"codebooks have 2 to 8 bits, not {self.bits}")
        groups = len(self.codebook)
        _check_groups(self.codes, groups)
        _check(self.codebook.shape == (groups, 2**self.bits), "a codebook has 2^bits values")
        _check(int(self.codes.max(initial=0)) < 2**self.bits, f"codes outside of {self.bits} bits")
        with np.errstate(over="ignore"):
            exact = self.codebook.astype(self.dtype).astype(np.float32)
        _check(bool(np.isfinite(exact).all()), "a codebook holds finite numbers")
        _check(bool((exact == self.codebook).all()), f"a codebook holds numbers of {self.dtype}")

    @property
    def keeps_zero(self) -> bool:
        """Whether code 0 stands for exactly 0 everywhere."""
        return not self.codebook[:, 0].any()

    def decode(self) -> Float:
        """What the codes stand for, in the tensor's shape."""
        group = group_of(len(self.codes), len(self.codebook))
        flat = self.codes.reshape(len(self.codes), -1)
        return self.codebook[group[:, None], flat].reshape(self.codes.shape)

    def store(self) -> tuple[LayerStorage, Parts]:
        """How it goes into a file, and the arrays there."""
        present = self.codes != 0 if self.keeps_zero else np.ones(self.codes.shape, np.bool_)
        storage, parts = _store_codes("codebook", self.codes, present, self.bits, self.dtype)
        parts[CODEBOOK] = self.codebook.astype(self.dtype)
        return replace(storage, groups=len(self.codebook)), parts

    @staticmethod
    def read(storage: LayerStorage, parts: Parts, shape: tuple[int, ...]) -> CodebookTensor:
        """The inverse of `store`. Raises ArtifactError."""
        if storage.dtype == "int64":
            raise ArtifactError("a codebook of whole numbers")
        codebook = _part(parts, CODEBOOK, storage.dtype, (storage.groups, 2**storage.bits))
        codes = _read_codes(storage, parts, shape, np.zeros(math.prod(shape), np.uint8))
        return CodebookTensor(
            codes=codes,
            codebook=codebook.astype(np.float32),
            bits=storage.bits,
            dtype=storage.dtype,
        )


Encoding = LinearTensor | CodebookTensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """Everything of a model that is not held as floats.

    Attributes:
        tensors: by tensor name. activations: by the layer or product that takes them.
    """

    tensors: Mapping[str, Encoding] = field(default_factory=dict)
    activations: Mapping[str, ActivationStorage] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.activations)


def store_float(array: Float, dtype: FloatType) -> tuple[LayerStorage, Parts] | None:
    """A sparse tensor without its zeros, where that takes less room; else None."""
    held = array.astype(dtype)
    kind, where = encode_positions((held != 0).reshape(-1))
    values = held[held != 0]
    if where.nbytes + values.nbytes >= held.nbytes:
        return None
    storage = LayerStorage(dtype=dtype, sparsity=float(np.mean(held == 0)), positions=kind)
    return storage, {VALUES: values, POSITIONS: where}


def read_float(storage: LayerStorage, parts: Parts, shape: tuple[int, ...]) -> Float:
    """The inverse of `store_float`. Raises ArtifactError."""
    assert storage.positions != "all"
    present = decode_positions(storage.positions, _bytes(parts, POSITIONS), math.prod(shape))
    array = np.zeros(len(present), np.float32)
    array[present] = _part(parts, VALUES, storage.dtype, (int(present.sum()),))
    return array.reshape(shape)


def part_names(storage: LayerStorage) -> tuple[set[str], set[str]]:
    """The arrays that a tensor must have in a file, and those that it may have besides."""
    if storage.scheme == "float":
        return (set(), set()) if storage.positions == "all" else ({VALUES, POSITIONS}, set())
    needed = {VALUES, CODEBOOK if storage.scheme == "codebook" else SCALE}
    if storage.positions != "all":
        needed.add(POSITIONS)
    return needed, {ZERO} if storage.scheme == "linear" else set()


def _store_codes(
    scheme: Literal["linear", "codebook"],
    symbols: NDArray[np.uint8],
    present: NDArray[np.bool_],
    bits: int,
    dtype: FloatType = "float32",
) -> tuple[LayerStorage, Parts]:
    """All symbols, or those that are present and where they are, whichever is smaller."""
    sparsity = 1 - float(np.mean(present))
    values = encode_stream(symbols.reshape(-1), bits)
    parts: Parts = {VALUES: values}
    positions: Literal["all", "mask", "runs"] = "all"
    if sparsity:
        kind, where = encode_positions(present.reshape(-1))
        some = encode_stream(symbols[present], bits)
        if len(where) + len(some) < len(values):
            parts, positions = {VALUES: some, POSITIONS: where}, kind
    storage = LayerStorage(
        scheme=scheme,
        dtype=dtype,
        bits=bits,
        sparsity=sparsity,
        positions=positions,
        coding=stream_coding(parts[VALUES]),
    )
    return storage, parts


def _read_codes(
    storage: LayerStorage, parts: Parts, shape: tuple[int, ...], empty: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The codes in the tensor's shape; `empty` (N,) is what stands where none is stored."""
    values = _bytes(parts, VALUES)
    if stream_coding(values) != storage.coding:
        raise ArtifactError(f"its values are not {storage.coding}, as config.json has it")
    if storage.positions == "all":
        return decode_stream(values, storage.bits, math.prod(shape)).reshape(shape)
    present = decode_positions(storage.positions, _bytes(parts, POSITIONS), math.prod(shape))
    codes = empty.copy()
    codes[present] = decode_stream(values, storage.bits, int(present.sum()))
    return codes.reshape(shape)


def _part(parts: Parts, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = parts[name]
    if array.dtype != dtype or array.shape != shape:
        raise ArtifactError(
            f"its {name} is {array.dtype} {array.shape}, not {np.dtype(dtype)} {shape}"
        )
    return array


def _bytes(parts: Parts, name: str) -> NDArray[np.uint8]:
    array = parts[name]
    return _part(parts, name, np.uint8, (array.size,))


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise ConfigError(message)


def _check_groups(codes: NDArray[Any], groups: int) -> None:
    fits = codes.ndim >= 1 and 1 <= groups <= len(codes)
    _check(fits, f"{groups} groups for a tensor of shape {codes.shape}")

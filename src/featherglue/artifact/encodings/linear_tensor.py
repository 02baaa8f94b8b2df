"""Linear quantization: integers with a scale and a zero point."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings.parts import (
    SCALE,
    ZERO,
    Float,
    Parts,
    check_groups,
    checked_part,
    decode_codes,
    encode_codes,
    group_of,
    require,
)
from featherglue.config import LayerStorage


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearTensor:
    """A tensor x = (codes − zero) · scale (Jacob et al. 2018).

    The output channels (first axis) are divided evenly into G groups.

    Attributes:
        codes: int8, in the tensor's shape, each in [−2^(bits−1), 2^(bits−1)).
        scale: (G,) float32, above 0.
        zero: (G,) int16, zero points in the range of the codes.
        bits: number of bits of a code, 4 to 8.
    """

    codes: NDArray[np.int8]
    scale: Float
    zero: NDArray[np.int16]
    bits: int

    def __post_init__(self) -> None:
        groups, half = len(self.scale), 2 ** (self.bits - 1)
        require(4 <= self.bits <= 8, f"linear quantization has 4 to 8 bits, not {self.bits}")
        check_groups(self.codes, groups)
        require(
            self.zero.shape == self.scale.shape == (groups,),
            f"there must be one zero point for each scale, not {self.zero.shape}",
        )
        require(
            bool(np.isfinite(self.scale).all() and (self.scale > 0).all()),
            "scales must be finite and above 0",
        )
        for name, array in (("codes", self.codes), ("zero points", self.zero)):
            in_range = (array >= -half).all() and (array < half).all()
            require(bool(in_range), f"{name} exceed {self.bits} bits")

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 0."""
        return not self.zero.any()

    def decode(self) -> Float:
        """The float32 tensor."""
        group = group_of(len(self.codes), len(self.scale))
        shape = (-1, *[1] * (self.codes.ndim - 1))
        steps = self.codes.astype(np.int16) - self.zero[group].reshape(shape)
        return steps.astype(np.float32) * self.scale[group].reshape(shape)

    def to_parts(self) -> tuple[LayerStorage, Parts]:
        """The arrays to store, and the description of their storage."""
        group = group_of(len(self.codes), len(self.scale))
        zeros = self.zero[group].reshape(-1, *[1] * (self.codes.ndim - 1))
        symbols = (self.codes.astype(np.int16) + 2 ** (self.bits - 1)).astype(np.uint8)
        storage, parts = encode_codes("linear", symbols, self.codes != zeros, self.bits)
        parts[SCALE] = self.scale
        if not self.symmetric:
            parts[ZERO] = self.zero
        return replace(storage, groups=len(self.scale)), parts

    @staticmethod
    def from_parts(storage: LayerStorage, parts: Parts, shape: tuple[int, ...]) -> LinearTensor:
        """The inverse of `to_parts`. Raises ArtifactError or ConfigError for damaged parts."""
        scale = checked_part(parts, SCALE, np.float32, (storage.groups,))
        zero = np.zeros(storage.groups, np.int16)
        if ZERO in parts:
            zero = checked_part(parts, ZERO, np.int16, (storage.groups,))
        half = 2 ** (storage.bits - 1)
        group = group_of(shape[0], storage.groups) if shape else np.zeros(1, np.int64)
        zeros = np.repeat(zero[group] + half, math.prod(shape[1:])).astype(np.uint8)
        codes = decode_codes(storage, parts, shape, zeros)
        codes = (codes.astype(np.int16) - half).astype(np.int8)
        return LinearTensor(codes=codes, scale=scale, zero=zero, bits=storage.bits)

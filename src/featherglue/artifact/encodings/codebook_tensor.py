"""Codebook quantization (k-means): indices into lists of values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings.parts import (
    CODEBOOK,
    Float,
    FloatType,
    Parts,
    check_groups,
    checked_part,
    decode_codes,
    encode_codes,
    group_of,
    require,
)
from featherglue.config import LayerStorage
from featherglue.errors import ArtifactError


@dataclass(frozen=True, kw_only=True, eq=False)
class CodebookTensor:
    """A tensor of indices into codebooks (Han et al. 2016, Deep Compression).

    The output channels (first axis) are divided evenly into G groups with one codebook each.

    Attributes:
        codes: uint8, in the tensor's shape, each below 2^bits.
        codebook: (G, 2^bits) float32, finite.
        bits: number of bits of a code, 2 to 8.
        dtype: number format in which the codebook is stored; its values must be exact in it.
    """

    codes: NDArray[np.uint8]
    codebook: Float
    bits: int
    dtype: FloatType = "float16"

    def __post_init__(self) -> None:
        require(2 <= self.bits <= 8, f"codebooks have 2 to 8 bits, not {self.bits}")
        groups = len(self.codebook)
        check_groups(self.codes, groups)
        require(
            self.codebook.shape == (groups, 2**self.bits),
            f"a codebook of {self.bits} bits has {2**self.bits} values, "
            f"not {self.codebook.shape[1:]}",
        )
        require(int(self.codes.max(initial=0)) < 2**self.bits, f"codes exceed {self.bits} bits")
        with np.errstate(over="ignore"):
            exact = self.codebook.astype(self.dtype).astype(np.float32)
        require(bool(np.isfinite(exact).all()), "the values of a codebook must be finite")
        require(
            bool((exact == self.codebook).all()),
            f"the values of a codebook must be exact in {self.dtype}",
        )

    @property
    def keeps_zero(self) -> bool:
        """Whether code 0 stands for exactly 0 in all codebooks."""
        return not self.codebook[:, 0].any()

    def decode(self) -> Float:
        """The float32 tensor."""
        group = group_of(len(self.codes), len(self.codebook))
        flat = self.codes.reshape(len(self.codes), -1)
        return self.codebook[group[:, None], flat].reshape(self.codes.shape)

    def to_parts(self) -> tuple[LayerStorage, Parts]:
        """The arrays to store, and the description of their storage."""
        nonzero = self.codes != 0 if self.keeps_zero else np.ones(self.codes.shape, np.bool_)
        storage, parts = encode_codes("codebook", self.codes, nonzero, self.bits, self.dtype)
        parts[CODEBOOK] = self.codebook.astype(self.dtype)
        return replace(storage, groups=len(self.codebook)), parts

    @staticmethod
    def from_parts(storage: LayerStorage, parts: Parts, shape: tuple[int, ...]) -> CodebookTensor:
        """The inverse of `to_parts`. Raises ArtifactError or ConfigError for damaged parts."""
        if storage.dtype == "int64":
            raise ArtifactError("a codebook cannot be int64")
        codebook = checked_part(parts, CODEBOOK, storage.dtype, (storage.groups, 2**storage.bits))
        codes = decode_codes(storage, parts, shape, np.zeros(math.prod(shape), np.uint8))
        return CodebookTensor(
            codes=codes,
            codebook=codebook.astype(np.float32),
            bits=storage.bits,
            dtype=storage.dtype,
        )

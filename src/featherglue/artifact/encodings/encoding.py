"""The quantization of a whole model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from featherglue.artifact.encodings.codebook_tensor import CodebookTensor
from featherglue.artifact.encodings.linear_tensor import LinearTensor
from featherglue.config import ActivationStorage

Encoding = LinearTensor | CodebookTensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantization:
    """All quantized weights and activations of a model.

    Attributes:
        tensors: codes of the quantized weights, by tensor name.
        activations: scale and zero point of the quantized activations, by activation name; see
            `layers.activation_names`.
    """

    tensors: Mapping[str, Encoding] = field(default_factory=dict)
    activations: Mapping[str, ActivationStorage] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.activations)

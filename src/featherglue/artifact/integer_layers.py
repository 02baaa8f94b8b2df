"""Which layers of a quantized model are computed with whole numbers, and why others are not."""

from __future__ import annotations

from featherglue.artifact.encodings import LinearTensor, Quantization
from featherglue.artifact.layers import layers
from featherglue.config import ArchitectureConfig


def why_float(layer: str, quantization: Quantization) -> str:
    """Why a layer is computed with floats; "" where it is not.

    Its weight and what it takes must both be quantized linearly, what it takes with 8 bits. A
    weight with different zero points can be multiplied, but not by the integer kernels there are.
    """
    weight = quantization.tensors.get(f"{layer}.weight")
    taken = [
        how
        for name, how in quantization.activations.items()
        if name in (layer, f"{layer}.message", f"{layer}.output")
    ]
    if weight is None:
        return "its weight is held as floats"
    if not isinstance(weight, LinearTensor):
        return "its weight is held as a codebook"
    if layer not in quantization.activations:
        return "what it takes is held as floats"
    if any(how.bits != 8 for how in taken):
        return "what it takes has fewer than 8 bits"
    if len(set(weight.zero.tolist())) > 1:
        return "its weight has different zero points"
    return ""


def integer_layers(
    architecture: ArchitectureConfig, quantization: Quantization
) -> tuple[list[str], dict[str, str]]:
    """The layers that are computed with whole numbers, and why quantized others are not."""
    whole: list[str] = []
    floating: dict[str, str] = {}
    for layer in layers(architecture):
        reason = why_float(layer.name, quantization)
        if not reason:
            whole.append(layer.name)
        elif f"{layer.name}.weight" in quantization.tensors:
            floating[layer.name] = reason
    return whole, floating


def saturates(architecture: ArchitectureConfig, quantization: Quantization) -> bool:
    """Whether sums of two products may not fit the 16 bits that CPUs without VNNI have for them.

    255 · 64 · 2 does, so that weights of 7 bits are safe.
    """
    whole, _ = integer_layers(architecture, quantization)
    return any(quantization.tensors[f"{name}.weight"].bits > 7 for name in whole)

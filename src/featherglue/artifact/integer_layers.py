"""Which layers of a quantized model run in integer arithmetic."""

from __future__ import annotations

from featherglue.artifact.encodings import LinearTensor, Quantization
from featherglue.artifact.layers import layers
from featherglue.config import ArchitectureConfig


def why_float(layer: str, quantization: Quantization) -> str:
    """Why a layer runs in float arithmetic; "" if it runs in integer arithmetic.

    An integer layer needs a linearly quantized weight with a single zero point and linearly
    quantized inputs and outputs of 8 bits, because the integer kernels of the runtimes do.
    """
    weight = quantization.tensors.get(f"{layer}.weight")
    activations = [
        activation
        for name, activation in quantization.activations.items()
        if name in (layer, f"{layer}.message", f"{layer}.output")
    ]
    if weight is None:
        return "the weight is not quantized"
    if not isinstance(weight, LinearTensor):
        return "the weight is a codebook"
    if layer not in quantization.activations:
        return "the input is not quantized"
    if any(activation.bits != 8 for activation in activations):
        return "the input or the output has fewer than 8 bits"
    if len(set(weight.zero.tolist())) > 1:
        return "the weight has more than one zero point"
    return ""


def integer_layers(
    architecture: ArchitectureConfig, quantization: Quantization
) -> tuple[list[str], dict[str, str]]:
    """Names of the layers in integer arithmetic, and why the other quantized layers are not."""
    integer: list[str] = []
    floating: dict[str, str] = {}
    for layer in layers(architecture):
        reason = why_float(layer.name, quantization)
        if not reason:
            integer.append(layer.name)
        elif f"{layer.name}.weight" in quantization.tensors:
            floating[layer.name] = reason
    return integer, floating


def saturates(architecture: ArchitectureConfig, quantization: Quantization) -> bool:
    """Whether integer layers may saturate on x86 CPUs without VNNI.

    These CPUs add two products of 8-bit numbers in 16 bits. Weights of up to 7 bits are safe,
    because 2 · 255 · 64 fits.
    """
    integer, _ = integer_layers(architecture, quantization)
    return any(quantization.tensors[f"{name}.weight"].bits > 7 for name in integer)

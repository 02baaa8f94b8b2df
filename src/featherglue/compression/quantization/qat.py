"""Quantization-aware training (QAT).

Linearly quantized weights are trained as floats that are rounded in every forward pass, with
straight-through gradients (Jacob et al., CVPR 2018). The values of a codebook are trained by the
sum of the gradients of the weights that share them (Han et al., ICLR 2016); the indices are fixed.
The networks of a quantized model round activations in any case.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from featherglue.artifact.encodings import CodebookTensor, Encoding, LinearTensor, group_of
from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Arrays, Artifact
from featherglue.artifact.layers import tensor_shapes
from featherglue.compression.quantization.linear import round_biases, with_encodings
from featherglue.errors import UsageError
from featherglue.models.model import Model


class LinearWeight(nn.Module):
    """A parametrization that rounds a weight to its linear code.

    The scale is a fixed multiple of the largest magnitude of the weight.

    Args:
        code: the quantized weight. Determines the bits, the zero points and the ratio between the
            scale and the largest magnitude.
        weight: the weight before quantization, (out, …).
    """

    ratio: Tensor
    zero: Tensor

    def __init__(self, code: LinearTensor, weight: Tensor) -> None:
        super().__init__()
        self.bits = code.bits
        self.groups = len(code.scale)
        group = torch.from_numpy(group_of(len(weight), self.groups))
        self.register_buffer("group", group)
        self.register_buffer("zero", torch.from_numpy(code.zero.astype(np.int32))[group])
        scale = torch.from_numpy(code.scale.copy())
        self.register_buffer("ratio", scale / self._span(weight.detach()))

    def _span(self, weight: Tensor) -> Tensor:
        """Return the largest magnitude of each group: (groups,), greater than 0."""
        largest = weight.flatten(1).abs().amax(1)
        spans = torch.zeros(self.groups, dtype=weight.dtype, device=weight.device)
        group = self.get_buffer("group")
        return spans.scatter_reduce(0, group, largest, "amax").clamp_min(1e-12)

    def _scale(self, weight: Tensor) -> Tensor:
        tiny = float(np.finfo(np.float32).tiny)
        return (self.ratio * self._span(weight.detach())).float().clamp_min(tiny)

    def forward(self, weight: Tensor) -> Tensor:
        half = 2 ** (self.bits - 1)
        scale = self._scale(weight)[self.get_buffer("group")]
        lowest = -half if bool(self.zero.any()) else 1 - half
        return torch.fake_quantize_per_channel_affine(
            weight.float(), scale, self.zero, 0, lowest, half - 1
        ).to(weight.dtype)

    @torch.no_grad()
    def encode(self, weight: Tensor) -> LinearTensor:
        """Quantize a trained weight."""
        scale = self._scale(weight)
        each = scale[self.get_buffer("group")].reshape(-1, *[1] * (weight.ndim - 1))
        zero = self.zero.reshape(each.shape)
        codes = torch.round(self(weight) / each) + zero
        first = torch.searchsorted(
            self.get_buffer("group"), torch.arange(self.groups, device=scale.device)
        )
        return LinearTensor(
            codes=codes.to(torch.int8).cpu().numpy(),
            scale=scale.cpu().numpy(),
            zero=self.zero[first].to(torch.int16).cpu().numpy(),
            bits=self.bits,
        )


class CodebookWeight(nn.Module):
    """A parametrization that looks a weight up in codebooks, which are the trained parameter."""

    def __init__(self, code: CodebookTensor) -> None:
        super().__init__()
        self.bits, self.dtype = code.bits, code.dtype
        values = code.codebook.shape[1]
        group = group_of(len(code.codes), len(code.codebook))
        index = code.codes.astype(np.int64) + (group * values).reshape(
            -1, *[1] * (code.codes.ndim - 1)
        )
        self.register_buffer("index", torch.from_numpy(index))
        kept = torch.ones(code.codebook.shape)
        kept[:, 0] = 0.0 if code.keeps_zero else 1.0
        self.register_buffer("kept", kept)  # 0 where a value must stay zero
        self.register_buffer("start", torch.from_numpy(code.codebook.copy()), persistent=False)

    def forward(self, codebook: Tensor) -> Tensor:
        return (codebook * self.get_buffer("kept")).flatten()[self.get_buffer("index")]

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.get_buffer("start").to(weight)

    @torch.no_grad()
    def encode(self, codebook: Tensor) -> CodebookTensor:
        """Return the quantized weight of trained codebooks."""
        stored = (codebook * self.get_buffer("kept")).cpu().numpy().astype(self.dtype)
        count = codebook.shape[1]
        return CodebookTensor(
            codes=(self.get_buffer("index") % count).to(torch.uint8).cpu().numpy(),
            codebook=stored.astype(np.float32),
            bits=self.bits,
            dtype=self.dtype,
        )


def prepare_qat(model: Model, parent: Model | None = None) -> Model:
    """Return a copy of a quantized model whose networks are ready for QAT.

    Args:
        model: a quantized model.
        parent: the model before quantization. If given, linearly quantized weights start from its
            unrounded weights.

    Raises:
        UsageError: the model is not quantized.
    """
    if not model.quantization:
        raise UsageError("this model is not quantized; quantize it first")
    before = fold_batch_norm(parent.to_artifact()).arrays if parent is not None else {}
    extractor, matcher = copy.deepcopy(model.extractor), copy.deepcopy(model.matcher)
    prepared = replace(model, extractor=extractor, matcher=matcher)
    networks = prepared.networks()
    for name, code in model.quantization.tensors.items():
        prefix, _, path = name.removesuffix(".weight").partition(".")
        layer = networks[prefix].get_submodule(path)
        weight = layer.get_parameter("weight")
        if isinstance(code, LinearTensor):
            if name in before:
                with torch.no_grad():
                    weight.copy_(torch.from_numpy(before[name]))
            parametrize.register_parametrization(layer, "weight", LinearWeight(code, weight))
        else:
            parametrize.register_parametrization(layer, "weight", CodebookWeight(code))
    return prepared


def stored_parameter(layer: nn.Module) -> nn.Parameter:
    """Return the parameter that determines a layer's weight.

    This is the weight itself, the unrounded weight, or the codebooks.
    """
    if parametrize.is_parametrized(layer, "weight"):
        return layer.get_parameter("parametrizations.weight.original")
    return layer.get_parameter("weight")


@torch.no_grad()
def finish_qat(model: Model) -> Model:
    """Return the quantized model of a trained model from `prepare_qat`."""
    networks = model.networks()
    arrays: Arrays = {}
    for name in tensor_shapes(model.architecture):
        prefix, _, path = name.partition(".")
        owner, _, leaf = path.rpartition(".")
        value = getattr(networks[prefix].get_submodule(owner), leaf)
        arrays[name] = value.detach().cpu().float().numpy().copy()
    trained = dict(_trained_codes(model))
    other = {k: v for k, v in model.quantization.tensors.items() if k not in trained}
    artifact = Artifact(
        architecture=model.architecture,
        processing=model.processing,
        arrays=arrays,
        quantization=replace(model.quantization, tensors=other),
        provenance=model.provenance,
    )
    return round_biases(Model.from_artifact(with_encodings(artifact, trained, {})))


def _trained_codes(model: Model) -> Iterator[tuple[str, Encoding]]:
    for prefix, network in model.networks().items():
        for path, layer in network.named_modules():
            if parametrize.is_parametrized(layer, "weight"):
                weight = layer.get_submodule("parametrizations.weight.0")
                assert isinstance(weight, (LinearWeight, CodebookWeight))
                yield f"{prefix}.{path}.weight", weight.encode(stored_parameter(layer))

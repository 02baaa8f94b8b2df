"""Linear quantization (Jacob et al., Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference, CVPR 2018): whole numbers for weights and activations.

What is not selected stays as it is. Without a choice these stay: the first and last layers of both
networks, the products of attention, the similarity matrix, and what Sinkhorn starts from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from featherglue.artifact.encodings import Encoding, LinearTensor, Quantization, group_of
from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.artifact.integer_layers import integer_layers
from featherglue.artifact.layers import ENCODER, layers, product_names
from featherglue.compression.calibration import Inputs, observe
from featherglue.compression.layer_selection import matching, select
from featherglue.compression.quantization.bias_correction import correct_biases
from featherglue.compression.quantization.ranges import (
    Method,
    Scheme,
    activation_range,
    quantize_weight,
)
from featherglue.config import ActivationStorage, ArchitectureConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model

ENDS = (
    "extractor.conv1a",
    "extractor.convPb",
    "extractor.convDb",
    "matcher.input_proj",
    "matcher.kenc.encoder.0",
    "matcher.final_proj",
)
_IMAGE = ActivationStorage(scale=1 / 255)  # grey values, exact as they come


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """How to quantize linearly.

    Attributes:
        bits: of weights, 4 to 8. activation_bits: 4 to 8; 0 leaves activations as floats.
        per: a scale for each output "channel" of a weight, or one for the "tensor".
        weights: "symmetric", or "affine" with zero points.
        activations: "affine", or "symmetric" with 0 in the middle (at the end, where nothing is
            negative).
        weight_range, activation_range: "minmax" holds everything, "percentile" all but the ends,
            "mse" what makes the mean squared error smallest.
        percentile: share that "percentile" holds, %.
        reduce_range: use 7 of 8 bits for weights whose layer takes whole numbers: on CPUs without
            VNNI instructions the sum of two products of 8 bits each saturates.
        correct_bias: keep the mean of every layer's output.
        include: names of layers and products, with * and ?; none for all but those that are
            delicate, see the module. exclude: taken out again.
    """

    bits: int = 8
    activation_bits: int = 8
    per: Literal["channel", "tensor"] = "channel"
    weights: Scheme = "symmetric"
    activations: Scheme = "affine"
    weight_range: Method = "mse"
    activation_range: Method = "mse"
    percentile: float = 99.99
    reduce_range: bool = True
    correct_bias: bool = True
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 4 <= self.bits <= 8:
            raise ConfigError(f"linear quantization has 4 to 8 bits, not {self.bits}")
        if self.activation_bits and not 4 <= self.activation_bits <= 8:
            raise ConfigError(
                f"activations have 4 to 8 bits, or 0 for floats, not {self.activation_bits}"
            )
        if not 50 < self.percentile <= 100:
            raise ConfigError(f"percentile must lie in (50, 100], not {self.percentile}")


def linear_targets(architecture: ArchitectureConfig) -> tuple[list[str], list[str]]:
    """Names of all that can be quantized linearly, and of what is without a choice."""
    every = [layer.name for layer in layers(architecture)]
    usual = [name for name in every if name not in ENDS]
    if architecture.matcher is not None:
        every += product_names(architecture.matcher)
    return every, usual


def delicate_targets(architecture: ArchitectureConfig, config: LinearConfig) -> list[str]:
    """Names of what `include` takes along by * or ? and what is better left as floats: without a
    choice it would be. What is named in full is meant so. Products have no weights: they are
    quantized with activations alone."""
    every, usual = linear_targets(architecture)
    weights = {layer.name for layer in layers(architecture)}
    names = [name for name in every if config.activation_bits or name in weights]
    taken = matching(names, config.include, config.exclude)
    return [name for name in taken if name not in usual and name not in config.include]


def quantize_linear(model: Model, config: LinearConfig, inputs: Inputs | None = None) -> Model:
    """A copy of the model with batch normalisation folded and the chosen parts quantized.

    Args:
        inputs: see `calibration.prepare_inputs`; not needed where activations stay floats and
            biases are not corrected.

    Raises:
        ConfigError: a name that matches nothing; batch normalisation that cannot be folded.
        UsageError: no inputs, or none for the matcher.
    """
    artifact = fold_batch_norm(model.to_artifact())
    every, usual = linear_targets(artifact.architecture)
    chosen = select(every, usual, config.include, config.exclude)
    if config.activation_bits or config.correct_bias:
        _check_inputs(chosen, inputs)
    original = Model.from_artifact(artifact)
    names = activations_of(artifact.architecture, chosen) if config.activation_bits else []
    held = _activations(original, names, inputs, config) if inputs is not None else {}
    taken = {name for name in chosen if name in held}
    encodings: dict[str, Encoding] = {}
    for layer in layers(artifact.architecture):
        if layer.name in chosen:
            name = f"{layer.name}.weight"
            bits = 7 if config.bits == 8 and config.reduce_range and layer.name in taken else 0
            encodings[name] = quantize_weight(
                artifact.arrays[name],
                bits or config.bits,
                layer.shape[0] if config.per == "channel" else 1,
                config.weights,
                config.weight_range,
                config.percentile,
            )
    quantized = with_encodings(artifact, encodings, held)
    made = Model.from_artifact(quantized)
    if config.correct_bias and inputs is not None:
        _correct(made, original, inputs, chosen)
    return replace(round_biases(made), provenance=model.provenance)


def round_biases(model: Model) -> Model:
    """A copy whose integer layers have biases that integer kernels hold exactly: 32-bit multiples
    of the steps of what they take times those of their weights."""
    artifact = model.to_artifact()
    quantization = artifact.quantization
    whole, _ = integer_layers(artifact.architecture, quantization)
    for name in whole:
        code, bias = quantization.tensors[f"{name}.weight"], artifact.arrays[f"{name}.bias"]
        assert isinstance(code, LinearTensor)
        step = code.scale[group_of(len(bias), len(code.scale))].astype(np.float64)
        step *= quantization.activations[name].scale
        artifact.arrays[f"{name}.bias"] = (np.rint(bias / step) * step).astype(np.float32)
    return Model.from_artifact(artifact)


def with_encodings(
    artifact: Artifact,
    encodings: Mapping[str, Encoding],
    activations: Mapping[str, ActivationStorage],
) -> Artifact:
    """A copy whose tensors are what these codes stand for."""
    before = artifact.quantization
    return replace(
        artifact,
        arrays=artifact.arrays | {name: code.decode() for name, code in encodings.items()},
        quantization=Quantization(
            tensors={**before.tensors, **encodings},
            activations={**before.activations, **activations},
        ),
        hash="",
        folder=None,
    )


def activations_of(architecture: ArchitectureConfig, chosen: Collection[str]) -> list[str]:
    """The activations to quantize for these layers and products.

    A convolution works on whole numbers only where it gives whole numbers too, so that those who
    take its output take it quantized.
    """
    names: list[str] = []
    for name in chosen:
        if name.endswith(".attn.scores"):
            names += [f"{name}.query", f"{name}.key"]
        elif name.endswith(".attn.message"):
            names += [f"{name}.weights", f"{name}.value"]
        else:
            names.append(name)
        if ".gnn." in name and name.endswith(".mlp.0"):
            names.append(f"{name}.message")
        if name.startswith("extractor."):
            names += _takers(name)
    return list(dict.fromkeys(names))


def _takers(name: str) -> list[str]:
    """The activations that a convolution's output becomes."""
    own = name.removeprefix("extractor.conv")
    if own in ENCODER[:-1]:
        return [f"extractor.conv{ENCODER[ENCODER.index(own) + 1]}"]
    after = {"4b": ("convPa", "convDa"), "Pa": ("convPb",), "Da": ("convDb",)}
    return [f"extractor.{taker}" for taker in after.get(own, (f"conv{own}.output",))]


def _activations(
    model: Model, names: list[str], inputs: Inputs, config: LinearConfig
) -> dict[str, ActivationStorage]:
    seen = observe(model, inputs, names)
    held = {
        name: activation_range(
            at.values,
            at.low,
            at.high,
            config.activation_bits,
            config.activations,
            config.activation_range,
            config.percentile,
        )
        for name, at in seen.items()
    }
    if "extractor.conv1a" in held and config.activation_bits == 8:
        held["extractor.conv1a"] = _IMAGE
    return held


def _correct(made: Model, original: Model, inputs: Inputs, chosen: Collection[str]) -> None:
    for prefix, network in (("extractor", made.extractor), ("matcher", made.matcher)):
        names = [
            layer.name.removeprefix(f"{prefix}.")
            for layer in layers(made.architecture)
            if layer.name in chosen and layer.name.startswith(prefix)
        ]
        before = original.extractor if prefix == "extractor" else original.matcher
        if names and network is not None and before is not None:
            correct_biases(network, before, inputs, names)


def _check_inputs(chosen: Collection[str], inputs: Inputs | None) -> None:
    if inputs is None:
        raise UsageError("quantizing activations and correcting biases need images for calibration")
    if inputs.sides is None and any(name.startswith("matcher.") for name in chosen):
        raise UsageError(
            "a matcher is calibrated on the keypoints of its own extractor, and this model has "
            "none; quantize its weights alone (activation_bits = 0, correct_bias = false)"
        )

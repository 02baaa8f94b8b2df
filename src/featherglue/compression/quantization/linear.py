"""Linear quantization: integers with a scale for weights and activations.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, CVPR 2018.
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
from featherglue.artifact.layers import layers
from featherglue.compression.calibration import CalibrationData, record_activations
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.quantization.bias_correction import correct_biases
from featherglue.compression.quantization.linear_targets import activations_of, linear_targets
from featherglue.compression.quantization.ranges import (
    Method,
    Scheme,
    activation_range,
    quantize_weight,
)
from featherglue.config import ActivationStorage
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model

_IMAGE = ActivationStorage(scale=1 / 255)  # exact for 8-bit gray values


@dataclass(frozen=True, kw_only=True)
class LinearConfig:
    """Settings of linear quantization.

    Attributes:
        bits: bits of a weight, 4 to 8.
        activation_bits: bits of an activation, 4 to 8; 0 leaves activations as floats.
        per: whether each output "channel" of a weight has a scale, or the whole "tensor" has one.
        weights: "symmetric", or "affine" with zero points.
        activations: "affine", or "symmetric" with 0 in the middle of the range (at the lower end
            if no value is negative).
        weight_range: how the range of a weight is chosen: "minmax" covers all values, "percentile"
            most of them, and "mse" minimizes the mean squared error.
        activation_range: how the range of an activation is chosen, likewise.
        percentile: percentage of the values that "percentile" covers.
        reduce_range: use 7 instead of 8 bits for the weights of integer layers. On CPUs without
            VNNI instructions the sum of two products of 8 bits saturates.
        correct_bias: correct biases so that the mean output of every layer is preserved.
        include: globs of the layers and products to quantize. Empty selects all layers except the
            first and last ones; see `linear_targets`.
        exclude: globs of names to leave out.

    Raises:
        ConfigError: a value is out of range.
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
            raise ConfigError(f"bits of linear quantization must be 4 to 8, not {self.bits}")
        if self.activation_bits and not 4 <= self.activation_bits <= 8:
            raise ConfigError(
                f"activation_bits must be 4 to 8, or 0 for floats, not {self.activation_bits}"
            )
        if not 50 < self.percentile <= 100:
            raise ConfigError(f"percentile must be in (50, 100], not {self.percentile}")


def quantize_linear(
    model: Model, config: LinearConfig, calibration: CalibrationData | None = None
) -> Model:
    """Return a copy of the model with batch normalization folded and the selected parts quantized.

    Args:
        model: stays unchanged.
        config: what to quantize, and how.
        calibration: see `calibration.prepare_calibration`. Required if activations are quantized
            or biases corrected.

    Raises:
        ConfigError: a glob matches nothing, or batch normalization cannot be folded.
        UsageError: calibration data is missing, or lacks features for the matcher.
    """
    artifact = fold_batch_norm(model.to_artifact())
    names, default = linear_targets(artifact.architecture)
    selected = select_layers(names, default, config.include, config.exclude)
    if config.activation_bits or config.correct_bias:
        _check_calibration(selected, calibration)
    original = Model.from_artifact(artifact)
    activations: dict[str, ActivationStorage] = {}
    if config.activation_bits and calibration is not None:
        names_to_record = activations_of(artifact.architecture, selected)
        activations = _calibrate_activations(original, names_to_record, calibration, config)
    encodings: dict[str, Encoding] = {}
    for layer in layers(artifact.architecture):
        if layer.name in selected:
            name = f"{layer.name}.weight"
            reduce = config.reduce_range and config.bits == 8 and layer.name in activations
            encodings[name] = quantize_weight(
                artifact.arrays[name],
                7 if reduce else config.bits,
                layer.shape[0] if config.per == "channel" else 1,
                config.weights,
                config.weight_range,
                config.percentile,
            )
    quantized = Model.from_artifact(with_encodings(artifact, encodings, activations))
    if config.correct_bias and calibration is not None:
        _correct_biases(quantized, original, calibration, selected)
    return replace(round_biases(quantized), provenance=model.provenance)


def round_biases(model: Model) -> Model:
    """Return a copy whose integer layers have biases that integer kernels represent exactly.

    Such a bias is a multiple of the product of the scales of input and weight.
    """
    artifact = model.to_artifact()
    quantization = artifact.quantization
    names, _ = integer_layers(artifact.architecture, quantization)
    for name in names:
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
    """Return a copy of an artifact with more quantized tensors and activations."""
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


def _calibrate_activations(
    model: Model, names: list[str], calibration: CalibrationData, config: LinearConfig
) -> dict[str, ActivationStorage]:
    recorded = record_activations(model, calibration, names)
    storage = {
        name: activation_range(
            samples.values,
            samples.low,
            samples.high,
            config.activation_bits,
            config.activations,
            config.activation_range,
            config.percentile,
        )
        for name, samples in recorded.items()
    }
    if "extractor.conv1a" in storage and config.activation_bits == 8:
        storage["extractor.conv1a"] = _IMAGE
    return storage


def _correct_biases(
    quantized: Model, original: Model, calibration: CalibrationData, selected: Collection[str]
) -> None:
    for prefix, network in (("extractor", quantized.extractor), ("matcher", quantized.matcher)):
        names = [
            layer.name.removeprefix(f"{prefix}.")
            for layer in layers(quantized.architecture)
            if layer.name in selected and layer.name.startswith(prefix)
        ]
        before = original.extractor if prefix == "extractor" else original.matcher
        if names and network is not None and before is not None:
            correct_biases(network, before, calibration, names)


def _check_calibration(selected: Collection[str], calibration: CalibrationData | None) -> None:
    if calibration is None:
        raise UsageError("quantizing activations and correcting biases require calibration images")
    if calibration.features is None and any(name.startswith("matcher.") for name in selected):
        raise UsageError(
            "a matcher is calibrated on the keypoints of an extractor, and this model has none; "
            "quantize only its weights: activation_bits = 0 and correct_bias = false"
        )

"""Linear quantization of whole models: selection, accuracy and integer execution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featherglue.artifact.encodings import LinearTensor
from featherglue.artifact.integer_layers import integer_layers
from featherglue.artifact.layers import activation_names, layers, product_names
from featherglue.compression.calibration import (
    CalibrationData,
)
from featherglue.compression.quantization.bias_correction import correct_biases
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.linear_targets import (
    END_LAYERS,
    activations_of,
    linear_targets,
)
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.runtime.base import open_runtime

NAMES = ("one-head", "four-heads", "projected", "context")


def scores(model: Model, calibration: CalibrationData) -> torch.Tensor:
    assert model.matcher is not None and calibration.features is not None
    with torch.no_grad():
        found: torch.Tensor = model.matcher(*calibration.features[0], *calibration.features[1])
    return found


@pytest.fixture(scope="module")
def quantized(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> dict[str, Model]:
    """Models quantized with the default settings."""
    return {
        name: quantize_linear(models[name], LinearConfig(), calibration[name]) for name in NAMES
    }


def test_default_selection(quantized: dict[str, Model]) -> None:
    for model in quantized.values():
        names = [layer.name for layer in layers(model.architecture)]
        codes = model.quantization.tensors
        assert [f"{n}.weight" for n in names if n not in END_LAYERS] == list(codes)
        assert {code.bits for code in codes.values()} == {7}  # all of these are integer layers
        for part in (model.extractor, model.matcher):
            assert part is not None and not part.config.batch_norm
        assert not set(model.quantization.activations) & set(product_names(part.config))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_agrees_with_pytorch(
    name: str,
    quantized: dict[str, Model],
    calibration: dict[str, CalibrationData],
    tmp_path: Path,
    gray: Any,
) -> None:
    """Integer kernels and fake quantization differ only where values are rounded at ties."""
    artifact = quantized[name].save(tmp_path / "model")
    integers, _ = integer_layers(artifact.architecture, artifact.quantization)
    assert len(integers) == len(artifact.quantization.tensors)
    torch_, onnx_ = (open_runtime(artifact, r, 1) for r in ("torch", "onnxruntime"))  # type: ignore[arg-type]
    for one, other in zip(torch_.extract(gray), onnx_.extract(gray), strict=True):
        spread = float(one.std())
        assert np.abs(one - other).mean() < 0.02 * spread
    views = calibration[name].features
    assert views is not None
    arrays = [
        part.numpy()
        for view in views
        for part in (torch.cat((view[0], view[1][..., None]), -1)[0], view[2][0])
    ]
    one, other = torch_.match(*arrays), onnx_.match(*arrays)
    assert np.abs(one - other).mean() < 0.01 * float(one.std())
    # The layers of the graph are integer layers, not fake quantization.
    folder = tmp_path / "graphs"
    from onnx import load

    from featherglue.export.networks import export_onnx

    kinds = [n.op_type for p in export_onnx(artifact, folder) for n in load(p).graph.node]
    assert kinds.count("QuantizeLinear") > 5
    assert kinds.count("DequantizeLinear") > len(integers)


@pytest.mark.parametrize("name", NAMES)
def test_quantized_model_is_close_to_its_parent(
    name: str,
    models: dict[str, Model],
    quantized: dict[str, Model],
    calibration: dict[str, CalibrationData],
) -> None:
    before, after = (
        scores(models[name], calibration[name]),
        scores(quantized[name], calibration[name]),
    )
    assert 0 < float((after - before).abs().mean()) < 0.15 * float(before.std())
    for image in calibration[name].images[:1]:
        with torch.no_grad():
            heat, held = (m.extractor(image)[0] for m in (models[name], quantized[name]))  # type: ignore[misc]
        assert 0 < float((heat - held).abs().mean()) < 0.1 * float(heat.std())


@pytest.mark.slow
def test_error_increases_with_fewer_bits(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    before = scores(models["one-head"], calibration["one-head"])
    errors = []
    for bits in (8, 6, 4):
        config = LinearConfig(
            bits=bits,
            activation_bits=bits,
            reduce_range=False,
            correct_bias=False,
            include=("matcher.*",),
        )
        made = quantize_linear(models["one-head"], config, calibration["one-head"])
        assert {code.bits for code in made.quantization.tensors.values()} == {bits}
        assert {how.bits for how in made.quantization.activations.values()} == {bits}
        errors.append(float((scores(made, calibration["one-head"]) - before).abs().mean()))
    assert errors[0] < errors[1] < errors[2]


def test_products_and_end_layers_can_be_selected(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    model = models["one-head"]
    names, default = linear_targets(model.architecture)
    assert set(names) - set(default) == (set(END_LAYERS) & set(names)) | set(
        product_names(model.architecture.matcher)  # type: ignore[arg-type]
    )
    config = LinearConfig(include=("*",), correct_bias=False)
    made = quantize_linear(model, config, calibration["one-head"])
    assert set(made.quantization.activations) == set(activation_names(model.architecture))
    assert made.quantization.activations["extractor.conv1a"].scale == 1 / 255
    error = (
        (scores(made, calibration["one-head"]) - scores(model, calibration["one-head"]))
        .abs()
        .mean()
    )
    assert float(error) < 0.3 * float(scores(model, calibration["one-head"]).std())
    names = activations_of(
        model.architecture, ["matcher.gnn.layers.0.attn.scores", "extractor.conv4b"]
    )
    assert names == [
        "matcher.gnn.layers.0.attn.scores.query",
        "matcher.gnn.layers.0.attn.scores.key",
        "extractor.conv4b",
        "extractor.convPa",
        "extractor.convDa",
    ]


def test_quantizing_only_weights_needs_no_images(models: dict[str, Model]) -> None:
    config = LinearConfig(bits=5, activation_bits=0, correct_bias=False, per="tensor")
    made = quantize_linear(models["four-heads"], config)
    assert not made.quantization.activations
    for code in made.quantization.tensors.values():
        assert isinstance(code, LinearTensor)
        assert len(code.scale) == 1 and len(np.unique(code.codes)) <= 31
    for config in (LinearConfig(), LinearConfig(activation_bits=0)):
        with pytest.raises(UsageError, match="require calibration images"):
            quantize_linear(models["four-heads"], config)
    alone = Model(extractor=None, matcher=models["four-heads"].matcher)
    with pytest.raises(UsageError, match="keypoints of an extractor"):
        quantize_linear(alone, LinearConfig(), CalibrationData(images=()))


@pytest.mark.parametrize(
    "values",
    [{"bits": 3}, {"bits": 9}, {"activation_bits": 3}, {"activation_bits": 9}, {"percentile": 50}],
)
def test_settings_out_of_range_raise(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LinearConfig(**values)


# --- bias correction ---------------------------------------------------------------------------


def test_bias_correction_restores_mean_outputs(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    model, data = models["one-head"], calibration["one-head"]
    config = LinearConfig(bits=4, activation_bits=0, correct_bias=False)
    made = quantize_linear(model, config)
    assert made.extractor is not None and model.extractor is not None
    names = [f"conv{n}" for n in ("1b", "2a", "2b", "3a", "3b", "4a", "4b", "Pa", "Da")]

    def means(network: torch.nn.Module) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        hooks = [
            network.get_submodule(n).register_forward_hook(
                lambda module, x, y, n=n: found.update({n: y.mean((0, 2, 3))})
            )
            for n in names
        ]
        with torch.no_grad():
            network.forward_raw(torch.cat(data.images))  # type: ignore[operator]
        for hook in hooks:
            hook.remove()
        return found

    target, before = means(model.extractor), means(made.extractor)
    correct_biases(made.extractor, model.extractor, data, names)
    after = means(made.extractor)
    for name in names:
        assert (after[name] - target[name]).abs().max() < 1e-4
    assert max(float((before[n] - target[n]).abs().max()) for n in names) > 0.01
    for module in (made.extractor, model.extractor):
        assert not any(m._forward_hooks for m in module.modules())


def test_bias_correction_reduces_the_error(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    before = scores(models["one-head"], calibration["one-head"])
    errors = []
    for correct in (False, True):
        config = LinearConfig(
            bits=4, activation_bits=0, correct_bias=correct, include=("matcher.*",)
        )
        made = quantize_linear(models["one-head"], config, calibration["one-head"])
        errors.append(float((scores(made, calibration["one-head"]) - before).square().mean()))
    assert errors[1] < errors[0]

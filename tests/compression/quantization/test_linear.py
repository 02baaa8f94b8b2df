"""Linear quantization of whole models: what is quantized, how well, and how it runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featherglue.artifact.encodings import LinearTensor
from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.integer_layers import integer_layers
from featherglue.artifact.layers import activation_names, layers, product_names
from featherglue.compression.calibration import Inputs, observe, prepare_inputs
from featherglue.compression.quantization.bias_correction import correct_biases
from featherglue.compression.quantization.linear import (
    ENDS,
    LinearConfig,
    activations_of,
    linear_targets,
    quantize_linear,
)
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.runtime.base import open_runtime

NAMES = ("one-head", "four-heads", "projected")


def scores(model: Model, inputs: Inputs) -> torch.Tensor:
    assert model.matcher is not None and inputs.sides is not None
    with torch.no_grad():
        found: torch.Tensor = model.matcher(*inputs.sides[0], *inputs.sides[1])
    return found


@pytest.fixture(scope="module")
def quantized(models: dict[str, Model], inputs: dict[str, Inputs]) -> dict[str, Model]:
    """With everything that is quantized without a choice."""
    return {name: quantize_linear(models[name], LinearConfig(), inputs[name]) for name in NAMES}


def test_what_is_quantized_without_a_choice(quantized: dict[str, Model]) -> None:
    for model in quantized.values():
        names = [layer.name for layer in layers(model.architecture)]
        codes = model.quantization.tensors
        assert [f"{n}.weight" for n in names if n not in ENDS] == list(codes)
        assert {code.bits for code in codes.values()} == {7}  # all of these take whole numbers
        for part in (model.extractor, model.matcher):
            assert part is not None and not part.config.batch_norm
        assert not set(model.quantization.activations) & set(product_names(part.config))  # type: ignore[union-attr]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_computes_the_same_with_whole_numbers(
    name: str, quantized: dict[str, Model], inputs: dict[str, Inputs], tmp_path: Path, grey: Any
) -> None:
    """Its kernels against PyTorch's rounding: apart by rounding at ties only.

    Of scores and descriptors hardly any differ; the score matrix by 1 % of its spread.
    """
    artifact = quantized[name].save(tmp_path / "model")
    whole, _ = integer_layers(artifact.architecture, artifact.quantization)
    assert len(whole) == len(artifact.quantization.tensors)
    torch_, onnx_ = (open_runtime(artifact, r, 1) for r in ("torch", "onnxruntime"))  # type: ignore[arg-type]
    for one, other in zip(torch_.extract(grey), onnx_.extract(grey), strict=True):
        spread = float(one.std())
        assert np.abs(one - other).mean() < 0.02 * spread
    sides = inputs[name].sides
    assert sides is not None
    arrays = [
        part.numpy()
        for side in sides
        for part in (torch.cat((side[0], side[1][..., None]), -1)[0], side[2][0])
    ]
    one, other = torch_.match(*arrays), onnx_.match(*arrays)
    assert np.abs(one - other).mean() < 0.01 * float(one.std())
    # Within the graph the layers are whole numbers, not floats that look like them.
    folder = tmp_path / "graphs"
    from onnx import load

    from featherglue.export.networks import export_onnx

    kinds = [n.op_type for p in export_onnx(artifact, folder) for n in load(p).graph.node]
    assert kinds.count("QuantizeLinear") > 5
    assert kinds.count("DequantizeLinear") > len(whole)


@pytest.mark.parametrize("name", NAMES)
def test_the_quantized_model_is_close_to_its_parent(
    name: str, models: dict[str, Model], quantized: dict[str, Model], inputs: dict[str, Inputs]
) -> None:
    before, after = scores(models[name], inputs[name]), scores(quantized[name], inputs[name])
    assert 0 < float((after - before).abs().mean()) < 0.15 * float(before.std())
    for image in inputs[name].images[:1]:
        with torch.no_grad():
            heat, held = (m.extractor(image)[0] for m in (models[name], quantized[name]))  # type: ignore[misc]
        assert 0 < float((heat - held).abs().mean()) < 0.1 * float(heat.std())


def test_fewer_bits_are_further_away(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    before = scores(models["one-head"], inputs["one-head"])
    errors = []
    for bits in (8, 6, 4):
        config = LinearConfig(
            bits=bits,
            activation_bits=bits,
            reduce_range=False,
            correct_bias=False,
            include=("matcher.*",),
        )
        made = quantize_linear(models["one-head"], config, inputs["one-head"])
        assert {code.bits for code in made.quantization.tensors.values()} == {bits}
        assert {how.bits for how in made.quantization.activations.values()} == {bits}
        errors.append(float((scores(made, inputs["one-head"]) - before).abs().mean()))
    assert errors[0] < errors[1] < errors[2]


def test_products_and_ends_can_be_chosen(
    models: dict[str, Model], inputs: dict[str, Inputs]
) -> None:
    model = models["one-head"]
    every, usual = linear_targets(model.architecture)
    assert set(every) - set(usual) == (set(ENDS) & set(every)) | set(
        product_names(model.architecture.matcher)  # type: ignore[arg-type]
    )
    config = LinearConfig(include=("*",), correct_bias=False)
    made = quantize_linear(model, config, inputs["one-head"])
    assert set(made.quantization.activations) == set(activation_names(model.architecture))
    assert made.quantization.activations["extractor.conv1a"].scale == 1 / 255
    error = (scores(made, inputs["one-head"]) - scores(model, inputs["one-head"])).abs().mean()
    assert float(error) < 0.3 * float(scores(model, inputs["one-head"]).std())
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


def test_weights_alone_need_no_images(models: dict[str, Model]) -> None:
    config = LinearConfig(bits=5, activation_bits=0, correct_bias=False, per="tensor")
    made = quantize_linear(models["four-heads"], config)
    assert not made.quantization.activations
    for code in made.quantization.tensors.values():
        assert isinstance(code, LinearTensor)
        assert len(code.scale) == 1 and len(np.unique(code.codes)) <= 31
    for config in (LinearConfig(), LinearConfig(activation_bits=0)):
        with pytest.raises(UsageError, match="need images"):
            quantize_linear(models["four-heads"], config)
    alone = Model(extractor=None, matcher=models["four-heads"].matcher)
    with pytest.raises(UsageError, match="its own extractor"):
        quantize_linear(alone, LinearConfig(), Inputs(images=()))


@pytest.mark.parametrize(
    "values",
    [{"bits": 3}, {"bits": 9}, {"activation_bits": 3}, {"activation_bits": 9}, {"percentile": 50}],
)
def test_configurations_out_of_range(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        LinearConfig(**values)


# --- bias correction ---------------------------------------------------------------------------


def test_bias_correction_keeps_the_mean_of_every_layer(
    models: dict[str, Model], inputs: dict[str, Inputs]
) -> None:
    model, given = models["one-head"], inputs["one-head"]
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
            network.forward_raw(torch.cat(given.images))  # type: ignore[operator]
        for hook in hooks:
            hook.remove()
        return found

    wanted, before = means(model.extractor), means(made.extractor)
    correct_biases(made.extractor, model.extractor, given, names)
    after = means(made.extractor)
    for name in names:
        assert (after[name] - wanted[name]).abs().max() < 1e-4
    assert max(float((before[n] - wanted[n]).abs().max()) for n in names) > 0.01
    for module in (made.extractor, model.extractor):
        assert not any(m._forward_hooks for m in module.modules())


def test_bias_correction_brings_the_outputs_closer(
    models: dict[str, Model], inputs: dict[str, Inputs]
) -> None:
    before = scores(models["one-head"], inputs["one-head"])
    errors = []
    for correct in (False, True):
        config = LinearConfig(
            bits=4, activation_bits=0, correct_bias=correct, include=("matcher.*",)
        )
        made = quantize_linear(models["one-head"], config, inputs["one-head"])
        errors.append(float((scores(made, inputs["one-head"]) - before).square().mean()))
    assert errors[1] < errors[0]


# --- calibration -------------------------------------------------------------------------------


def test_inputs_are_views_of_photographs(models: dict[str, Model], images: Any) -> None:
    given = prepare_inputs(models["one-head"], images, (160, 120), seed=3)
    assert len(given.images) == 4
    for image in given.images:
        assert image.shape == (1, 1, 120, 160)
        assert 0 <= float(image.min()) < float(image.max()) <= 1
    np.testing.assert_allclose(given.images[0][0, 0].numpy() * 255, images[0], atol=1e-4)
    assert given.sides is not None
    counts = {part.shape[1] for side in given.sides for part in side}
    assert len(counts) == 1 and counts.pop() >= 16
    for points, found, descriptors in given.sides:
        assert float(points.abs().max()) <= 0.72
        assert (found > 0).all()
        torch.testing.assert_close(descriptors.norm(dim=-1), torch.ones_like(found))
    again = prepare_inputs(models["one-head"], images, (160, 120), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(given.images, again.images, strict=True))
    other = prepare_inputs(models["one-head"], images, (160, 120), seed=4)
    assert not torch.equal(given.images[2], other.images[2])
    assert (
        prepare_inputs(replace(models["one-head"], matcher=None), images, (160, 120)).sides is None
    )


def test_as_many_keypoints_as_a_session_keeps(
    models: dict[str, Model], images: list[np.ndarray]
) -> None:
    model = models["one-head"]
    few = replace(model.processing, high_threshold_after=20, high_keypoint_threshold=1.0)
    sides = prepare_inputs(replace(model, processing=few), images, (160, 120)).sides
    assert sides is not None
    assert {part.shape[1] for side in sides for part in side} == {20}


def test_images_that_say_nothing(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="needs images"):
        prepare_inputs(models["one-head"], [])
    model = replace(
        models["one-head"], processing=replace(models["one-head"].processing, keypoint_threshold=1)
    )
    with pytest.raises(UsageError, match="no keypoints"):
        prepare_inputs(model, [np.zeros((120, 160), np.uint8)], (160, 120))


def test_what_is_observed_has_passed(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    model = Model.from_artifact(fold_batch_norm(models["four-heads"].to_artifact()))
    names = activation_names(model.architecture)
    seen = observe(model, inputs["four-heads"], names)
    assert set(seen) == set(names)
    pixels = torch.cat(inputs["four-heads"].images)
    assert seen["extractor.conv1a"].low == float(pixels.min())
    assert seen["extractor.conv1a"].high == float(pixels.max())
    assert seen["extractor.conv1b"].low == 0  # behind a ReLU
    weights = seen["matcher.gnn.layers.0.attn.message.weights"]
    assert weights.low >= 0 and weights.high <= 1
    for at in seen.values():
        assert at.low <= at.values.min() <= at.values.max() <= at.high
        assert len(at.values) > 100

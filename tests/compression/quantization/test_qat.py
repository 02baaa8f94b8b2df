"""Quantization-aware training."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from featherglue.artifact.encodings import CodebookTensor, LinearTensor
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.qat import finish_qat, prepare_qat, stored_parameter
from featherglue.errors import UsageError
from featherglue.models.model import Model

LINEAR = LinearConfig(bits=5, activation_bits=0, correct_bias=False)


def train(
    model: Model,
    calibration: CalibrationData,
    target: torch.Tensor,
    steps: int = 15,
    rate: float = 2e-3,
) -> list[float]:
    """Train a matcher toward target scores and return the losses."""
    assert model.matcher is not None and calibration.features is not None
    optimizer = torch.optim.Adam(model.matcher.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = (
            (model.matcher(*calibration.features[0], *calibration.features[1]) - target)
            .square()
            .mean()
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="module")
def target(models: dict[str, Model], calibration: dict[str, CalibrationData]) -> torch.Tensor:
    model, views = models["one-head"], calibration["one-head"].features
    assert model.matcher is not None and views is not None
    with torch.no_grad():
        found: torch.Tensor = model.matcher(*views[0], *views[1])
    return found


@pytest.mark.slow
def test_model_is_unchanged_without_training(models: dict[str, Model]) -> None:
    for made in (
        quantize_codebook(models["four-heads"], CodebookConfig(bits=4, channels=4)),
        quantize_linear(models["four-heads"], LINEAR),
    ):
        for parent in (None, models["four-heads"]):
            finished = finish_qat(prepare_qat(made, parent))
            before, after = made.to_artifact(), finished.to_artifact()
            for name, code in made.quantization.tensors.items():
                again = after.quantization.tensors[name]
                np.testing.assert_array_equal(again.codes, code.codes, err_msg=name)
                np.testing.assert_allclose(again.decode(), code.decode(), rtol=1e-5, atol=1e-7)
            for name, array in before.arrays.items():
                np.testing.assert_allclose(after.arrays[name], array, rtol=1e-5, atol=1e-6)


def test_codebooks_are_trained_and_indices_are_fixed(
    models: dict[str, Model], calibration: dict[str, CalibrationData], target: torch.Tensor
) -> None:
    made = quantize_codebook(models["one-head"], CodebookConfig(bits=3, include=("matcher.*",)))
    trainable = prepare_qat(made)
    losses = train(trainable, calibration["one-head"], target)
    assert losses[-1] < 0.6 * losses[0]
    finished = finish_qat(trainable)
    for name, code in made.quantization.tensors.items():
        after = finished.quantization.tensors[name]
        assert isinstance(code, CodebookTensor) and isinstance(after, CodebookTensor)
        np.testing.assert_array_equal(after.codes, code.codes)
        assert after.dtype == code.dtype
        assert (after.codebook != code.codebook).any()
    assert made.matcher is not None
    weight = made.to_artifact().arrays["matcher.final_proj.weight"]
    np.testing.assert_array_equal(
        weight, made.quantization.tensors["matcher.final_proj.weight"].decode()
    )


def test_gradient_of_a_codebook_value_is_the_sum_over_its_weights(models: dict[str, Model]) -> None:
    made = quantize_codebook(models["one-head"], CodebookConfig(bits=3, include=("*.final_proj",)))
    trainable = prepare_qat(made)
    assert trainable.matcher is not None
    layer = trainable.matcher.final_proj
    gradient = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    (layer.weight * gradient).sum().backward()
    code = made.quantization.tensors["matcher.final_proj.weight"]
    assert isinstance(code, CodebookTensor)
    expected = [float(gradient[torch.from_numpy(code.codes == k)].sum()) for k in range(8)]
    grad = stored_parameter(layer).grad
    assert grad is not None
    np.testing.assert_allclose(grad[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_zeros_of_codebooks_stay_zero(
    models: dict[str, Model], calibration: dict[str, CalibrationData], target: torch.Tensor
) -> None:
    pruned = prune(models["one-head"], PruneConfig(ratio=0.6, include=("matcher.*",)))
    made = quantize_codebook(pruned, CodebookConfig(bits=4, include=("matcher.*",)))
    trainable = prepare_qat(made)
    losses = train(trainable, calibration["one-head"], target, 10)
    assert losses[-1] < losses[0]
    before, after = pruned.to_artifact().arrays, finish_qat(trainable).to_artifact().arrays
    for name in made.quantization.tensors:
        np.testing.assert_array_equal(after[name] == 0, before[name] == 0)


def test_linear_weights_are_trained_with_straight_through_gradients(
    models: dict[str, Model], calibration: dict[str, CalibrationData], target: torch.Tensor
) -> None:
    config = LinearConfig(bits=4, activation_bits=0, correct_bias=False, include=("matcher.*",))
    made = quantize_linear(models["one-head"], config)
    trainable = prepare_qat(made, models["one-head"])
    assert trainable.matcher is not None
    start = copy.deepcopy(stored_parameter(trainable.matcher.final_proj)).detach().numpy()
    np.testing.assert_array_equal(
        start, models["one-head"].to_artifact().arrays["matcher.final_proj.weight"]
    )
    losses = train(trainable, calibration["one-head"], target)
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        views = calibration["one-head"].features
        assert views is not None
        expected = trainable.matcher(*views[0], *views[1])
        finished = finish_qat(trainable)
        assert finished.matcher is not None
        found = finished.matcher(*views[0], *views[1])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    code = finished.quantization.tensors["matcher.final_proj.weight"]
    assert isinstance(code, LinearTensor) and code.bits == 4
    assert (code.codes != made.quantization.tensors["matcher.final_proj.weight"].codes).any()


@pytest.mark.slow
def test_models_with_quantized_activations_are_trained(
    models: dict[str, Model],
    calibration: dict[str, CalibrationData],
    target: torch.Tensor,
    tmp_path: object,
) -> None:
    made = quantize_linear(models["one-head"], LinearConfig(bits=4), calibration["one-head"])
    trainable = prepare_qat(made, models["one-head"])
    losses = train(trainable, calibration["one-head"], target, steps=25, rate=1e-4)
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
    finished = finish_qat(trainable)
    assert finished.quantization.activations == made.quantization.activations
    finished.save(f"{tmp_path}/model")
    loaded = Model.load(f"{tmp_path}/model")
    for name, array in finished.to_artifact().arrays.items():
        np.testing.assert_array_equal(loaded.to_artifact().arrays[name], array)


def test_unquantized_models_raise(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="quantize it first"):
        prepare_qat(models["bare"])

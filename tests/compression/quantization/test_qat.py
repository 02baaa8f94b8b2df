"""Fine-tuning trains what is stored."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from featherglue.artifact.encodings import CodebookTensor, LinearTensor
from featherglue.compression.calibration import Inputs
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.codebook import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.qat import finish_training, make_trainable, trained_weight
from featherglue.errors import UsageError
from featherglue.models.model import Model

LINEAR = LinearConfig(bits=5, activation_bits=0, correct_bias=False)


def train(
    model: Model, inputs: Inputs, wanted: torch.Tensor, steps: int = 15, rate: float = 2e-3
) -> list[float]:
    """Towards the scores of another model; the losses on the way."""
    assert model.matcher is not None and inputs.sides is not None
    optimizer = torch.optim.Adam(model.matcher.parameters(), lr=rate)
    losses = []
    for _ in range(steps):
        loss = (model.matcher(*inputs.sides[0], *inputs.sides[1]) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.fixture(scope="module")
def wanted(models: dict[str, Model], inputs: dict[str, Inputs]) -> torch.Tensor:
    model, sides = models["one-head"], inputs["one-head"].sides
    assert model.matcher is not None and sides is not None
    with torch.no_grad():
        found: torch.Tensor = model.matcher(*sides[0], *sides[1])
    return found


def test_nothing_changes_without_training(models: dict[str, Model]) -> None:
    for made in (
        quantize_codebook(models["four-heads"], CodebookConfig(bits=4, channels=4)),
        quantize_linear(models["four-heads"], LINEAR),
    ):
        for parent in (None, models["four-heads"]):
            finished = finish_training(make_trainable(made, parent))
            before, after = made.to_artifact(), finished.to_artifact()
            for name, code in made.quantization.tensors.items():
                again = after.quantization.tensors[name]
                np.testing.assert_array_equal(again.codes, code.codes, err_msg=name)
                np.testing.assert_allclose(again.decode(), code.decode(), rtol=1e-5, atol=1e-7)
            for name, array in before.arrays.items():
                np.testing.assert_allclose(after.arrays[name], array, rtol=1e-5, atol=1e-6)


def test_codebooks_are_trained_and_codes_stay(
    models: dict[str, Model], inputs: dict[str, Inputs], wanted: torch.Tensor
) -> None:
    made = quantize_codebook(models["one-head"], CodebookConfig(bits=3, include=("matcher.*",)))
    trainable = make_trainable(made)
    losses = train(trainable, inputs["one-head"], wanted)
    assert losses[-1] < 0.6 * losses[0]
    finished = finish_training(trainable)
    for name, code in made.quantization.tensors.items():
        after = finished.quantization.tensors[name]
        assert isinstance(code, CodebookTensor) and isinstance(after, CodebookTensor)
        np.testing.assert_array_equal(after.codes, code.codes)
        assert after.dtype == code.dtype
        assert (after.codebook != code.codebook).any()
    assert made.matcher is not None  # and the one that it was made from is as it was
    weight = made.to_artifact().arrays["matcher.final_proj.weight"]
    np.testing.assert_array_equal(
        weight, made.quantization.tensors["matcher.final_proj.weight"].decode()
    )


def test_a_centroid_gets_the_gradients_of_its_weights(models: dict[str, Model]) -> None:
    made = quantize_codebook(models["one-head"], CodebookConfig(bits=3, include=("*.final_proj",)))
    trainable = make_trainable(made)
    assert trainable.matcher is not None
    layer = trainable.matcher.final_proj
    slopes = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    (layer.weight * slopes).sum().backward()
    code = made.quantization.tensors["matcher.final_proj.weight"]
    assert isinstance(code, CodebookTensor)
    expected = [float(slopes[torch.from_numpy(code.codes == k)].sum()) for k in range(8)]
    grad = trained_weight(layer).grad
    assert grad is not None
    np.testing.assert_allclose(grad[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_zeros_of_codebooks_stay(
    models: dict[str, Model], inputs: dict[str, Inputs], wanted: torch.Tensor
) -> None:
    pruned = prune(models["one-head"], PruneConfig(ratio=0.6, include=("matcher.*",)))
    made = quantize_codebook(pruned, CodebookConfig(bits=4, include=("matcher.*",)))
    trainable = make_trainable(made)
    losses = train(trainable, inputs["one-head"], wanted, 10)
    assert losses[-1] < losses[0]
    before, after = pruned.to_artifact().arrays, finish_training(trainable).to_artifact().arrays
    for name in made.quantization.tensors:
        np.testing.assert_array_equal(after[name] == 0, before[name] == 0)


def test_rounded_weights_are_trained_straight_through(
    models: dict[str, Model], inputs: dict[str, Inputs], wanted: torch.Tensor
) -> None:
    config = LinearConfig(bits=4, activation_bits=0, correct_bias=False, include=("matcher.*",))
    made = quantize_linear(models["one-head"], config)
    trainable = make_trainable(made, models["one-head"])
    assert trainable.matcher is not None
    start = copy.deepcopy(trained_weight(trainable.matcher.final_proj)).detach().numpy()
    np.testing.assert_array_equal(  # as before it was rounded
        start, models["one-head"].to_artifact().arrays["matcher.final_proj.weight"]
    )
    losses = train(trainable, inputs["one-head"], wanted)
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        sides = inputs["one-head"].sides
        assert sides is not None
        expected = trainable.matcher(*sides[0], *sides[1])
        finished = finish_training(trainable)
        assert finished.matcher is not None
        found = finished.matcher(*sides[0], *sides[1])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    code = finished.quantization.tensors["matcher.final_proj.weight"]
    assert isinstance(code, LinearTensor) and code.bits == 4
    assert (code.codes != made.quantization.tensors["matcher.final_proj.weight"].codes).any()


def test_whole_integer_models_are_trained(
    models: dict[str, Model], inputs: dict[str, Inputs], wanted: torch.Tensor, tmp_path: object
) -> None:
    """Activations too: their gradients pass, and what comes out is saved and loads."""
    made = quantize_linear(models["one-head"], LinearConfig(bits=4), inputs["one-head"])
    trainable = make_trainable(made, models["one-head"])
    losses = train(trainable, inputs["one-head"], wanted, steps=25, rate=1e-4)
    assert np.mean(losses[-5:]) < 0.9 * losses[0]
    finished = finish_training(trainable)
    assert finished.quantization.activations == made.quantization.activations
    finished.save(f"{tmp_path}/model")
    loaded = Model.load(f"{tmp_path}/model")
    for name, array in finished.to_artifact().arrays.items():
        np.testing.assert_array_equal(loaded.to_artifact().arrays[name], array)


def test_what_is_not_quantized_needs_none_of_this(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="quantize it before"):
        make_trainable(models["bare"])

"""Importance of single weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.importance import (
    gate_products,
    input_norms,
    probe_losses,
    weight_scores,
)
from featherglue.errors import UsageError
from featherglue.models.model import Model

LAYERS = ["extractor.conv2a", "matcher.gnn.layers.1.mlp.0", "matcher.kenc.encoder.0"]


def test_magnitude_is_the_absolute_weight(models: dict[str, Model]) -> None:
    arrays = models["projected"].to_artifact().arrays
    for name, score in weight_scores(models["projected"], LAYERS, "magnitude").items():
        np.testing.assert_array_equal(score, np.abs(arrays[f"{name}.weight"]))


def test_activation_importance_scales_with_input_norms(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    model = models["projected"]
    norms = input_norms(model, calibration["projected"], [*LAYERS, "extractor.conv1a"])
    pixels = torch.cat([image.flatten() for image in calibration["projected"].images]).double()
    np.testing.assert_allclose(norms["extractor.conv1a"], [pixels.square().mean().sqrt()])
    assert norms["matcher.gnn.layers.1.mlp.0"].shape == (24,)  # features and message
    views = calibration["projected"].features
    assert views is not None
    points = torch.cat([torch.cat((view[0], view[1][..., None]), -1) for view in views])
    np.testing.assert_allclose(
        norms["matcher.kenc.encoder.0"],
        points.double().square().mean((0, 1)).sqrt(),
        rtol=1e-6,
    )
    scores = weight_scores(model, LAYERS, "activation", calibration["projected"])
    arrays = model.to_artifact().arrays
    for name in LAYERS:
        weight = np.abs(arrays[f"{name}.weight"])
        shape = (1, -1, *[1] * (weight.ndim - 2))
        np.testing.assert_allclose(scores[name], weight * norms[name].reshape(shape), rtol=1e-6)


def test_gate_products_are_derivatives_of_a_gate(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    """Compares the sum over a channel with the finite difference of a factor 1 ± ε."""
    model, losses = models["one-head"], probe_losses(calibration["one-head"], seed=3)
    products = list(gate_products(model, losses))
    assert len(products) == 4 + 2  # images, pairs
    epsilon = 1e-2
    for name, sample in (("extractor.conv3a", 0), ("matcher.gnn.layers.0.mlp.0", 4)):
        values = []
        for factor in (1 + epsilon, 1 - epsilon):
            artifact = model.to_artifact()
            artifact.arrays[f"{name}.weight"][1] *= factor
            artifact.arrays[f"{name}.bias"][1] *= factor
            with torch.no_grad():
                values.append(float(list(losses(Model.from_artifact(artifact)))[sample]))
        gate = products[sample][f"{name}.weight"][1].sum() + products[sample][f"{name}.bias"][1]
        assert abs(gate) > 1e-4
        assert gate == pytest.approx((values[0] - values[1]) / (2 * epsilon), rel=0.05, abs=1e-3)


def test_taylor_uses_the_given_losses(models: dict[str, Model]) -> None:
    model = models["one-head"]

    def losses(model: Model) -> list[Tensor]:
        assert model.extractor is not None
        weight = model.extractor.get_submodule("conv2a").weight
        return [3 * weight.sum(), -weight.sum()]  # type: ignore[operator]

    scores = weight_scores(model, LAYERS[:2], "taylor", losses=losses)
    weight = model.to_artifact().arrays["extractor.conv2a.weight"]
    np.testing.assert_allclose(scores["extractor.conv2a"], 2 * np.abs(weight), rtol=1e-6)
    assert not scores["matcher.gnn.layers.1.mlp.0"].any()


def test_taylor_importance_of_an_unused_channel_is_zero(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    """The output of the channel is multiplied by zero weights in the next layer."""
    artifact = models["one-head"].to_artifact()
    artifact.arrays["extractor.conv2b.weight"][:, 5] = 0
    model = Model.from_artifact(artifact)
    score = weight_scores(model, ["extractor.conv2a"], "taylor", calibration["one-head"])
    each = score["extractor.conv2a"].sum((1, 2, 3))
    assert each[5] == 0
    assert np.count_nonzero(each) > 4
    assert weight_scores(model, ["extractor.conv2a"], "magnitude")["extractor.conv2a"][5].any()


def test_missing_calibration_raises(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    for importance in ("taylor", "activation"):
        with pytest.raises(UsageError, match="requires calibration images"):
            weight_scores(models["one-head"], LAYERS, importance)  # type: ignore[arg-type]
        alone = replace(calibration["one-head"], features=None)
        with pytest.raises(UsageError, match="this model has no extractor"):
            weight_scores(models["one-head"], LAYERS, importance, alone)  # type: ignore[arg-type]

"""Calibration data and recorded activations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.layers import activation_names
from featherglue.compression.calibration import (
    CalibrationData,
    prepare_calibration,
    record_activations,
)
from featherglue.errors import UsageError
from featherglue.models.model import Model


def test_calibration_data_contains_views_of_photographs(
    models: dict[str, Model], images: Any
) -> None:
    data = prepare_calibration(models["one-head"], images, (160, 120), seed=3)
    assert len(data.images) == 4
    for image in data.images:
        assert image.shape == (1, 1, 120, 160)
        assert 0 <= float(image.min()) < float(image.max()) <= 1
    np.testing.assert_allclose(data.images[0][0, 0].numpy() * 255, images[0], atol=1e-4)
    assert data.features is not None
    counts = {part.shape[1] for view in data.features for part in view}
    assert len(counts) == 1 and counts.pop() >= 16
    for points, found, descriptors in data.features:
        assert float(points.abs().max()) <= 0.72
        assert (found > 0).all()
        torch.testing.assert_close(descriptors.norm(dim=-1), torch.ones_like(found))
    again = prepare_calibration(models["one-head"], images, (160, 120), seed=3)
    assert all(torch.equal(a, b) for a, b in zip(data.images, again.images, strict=True))
    other = prepare_calibration(models["one-head"], images, (160, 120), seed=4)
    assert not torch.equal(data.images[2], other.images[2])
    assert (
        prepare_calibration(replace(models["one-head"], matcher=None), images, (160, 120)).features
        is None
    )


def test_number_of_keypoints_follows_the_processing_settings(
    models: dict[str, Model], images: list[np.ndarray]
) -> None:
    model = models["one-head"]
    few = replace(model.processing, high_threshold_after=20, high_keypoint_threshold=1.0)
    features = prepare_calibration(replace(model, processing=few), images, (160, 120)).features
    assert features is not None
    assert {part.shape[1] for view in features for part in view} == {20}


def test_images_without_keypoints_raise(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="at least one image"):
        prepare_calibration(models["one-head"], [])
    model = replace(
        models["one-head"], processing=replace(models["one-head"].processing, keypoint_threshold=1)
    )
    with pytest.raises(UsageError, match="no keypoints"):
        prepare_calibration(model, [np.zeros((120, 160), np.uint8)], (160, 120))


def test_recorded_activations(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    model = Model.from_artifact(fold_batch_norm(models["four-heads"].to_artifact()))
    names = activation_names(model.architecture)
    recorded = record_activations(model, calibration["four-heads"], names)
    assert set(recorded) == set(names)
    pixels = torch.cat(calibration["four-heads"].images)
    assert recorded["extractor.conv1a"].low == float(pixels.min())
    assert recorded["extractor.conv1a"].high == float(pixels.max())
    assert recorded["extractor.conv1b"].low == 0  # after a ReLU
    weights = recorded["matcher.gnn.layers.0.attn.message.weights"]
    assert weights.low >= 0 and weights.high <= 1
    for samples in recorded.values():
        assert samples.low <= samples.values.min() <= samples.values.max() <= samples.high
        assert len(samples.values) > 100

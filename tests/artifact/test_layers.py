"""Layers, tensor shapes and MACs of an architecture, compared with the networks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from featherglue.artifact.layers import (
    attention_macs,
    is_parameter,
    layers,
    tensor_shapes,
    total_macs,
)
from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig
from featherglue.models.attention import Attention
from featherglue.models.model import Model

NAMES = ["one-head", "four-heads", "projected", "context", "bare"]


def learned(architecture: ArchitectureConfig) -> int:
    return sum(
        int(np.prod(shape))
        for name, shape in tensor_shapes(architecture).items()
        if is_parameter(name)
    )


@pytest.mark.parametrize("name", NAMES)
def test_tensor_shapes_equal_those_of_the_networks(name: str, models: dict[str, Model]) -> None:
    model = models[name]
    expected = {
        f"{prefix}.{key}": tuple(value.shape)
        for prefix, network in model.networks().items()
        for key, value in network.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    shapes = tensor_shapes(model.architecture)
    assert shapes == expected
    parameters = sum(p.numel() for n in model.networks().values() for p in n.parameters())
    assert learned(model.architecture) == parameters


def test_the_published_sizes() -> None:
    point, glue = SuperPointConfig(), SuperGlueConfig()
    assert learned(ArchitectureConfig(extractor=point)) == 1_300_865
    assert 12.02e6 < learned(ArchitectureConfig(matcher=glue)) < 12.03e6
    both = ArchitectureConfig(extractor=point, matcher=glue)
    assert 13.315e6 < learned(both) < 13.33e6  # 13.32 M in the reference study
    macs = total_macs(both, (640, 480), 512)
    assert round(macs["extractor"] / 1e9) == 26  # as published
    assert round(macs["matcher"] / 1e9) == 17


def test_conv1b_alone_costs_11_giga_macs() -> None:
    (conv1b,) = (
        layer
        for layer in layers(ArchitectureConfig(extractor=SuperPointConfig()))
        if layer.name == "extractor.conv1b"
    )
    assert conv1b.macs((640, 480), 0) == 640 * 480 * 64 * 64 * 9


@pytest.mark.parametrize("name", NAMES)
def test_extractor_macs_equal_those_of_the_convolutions(
    name: str, models: dict[str, Model]
) -> None:
    extractor = models[name].extractor
    assert extractor is not None
    counted: dict[str, int] = {}
    handles = []
    for key, module in extractor.named_modules():
        if isinstance(module, torch.nn.Conv2d):

            def count(
                layer: torch.nn.Conv2d, _: object, output: torch.Tensor, key: str = key
            ) -> None:
                counted[f"extractor.{key}"] = output[0, 0].numel() * layer.weight.numel()

            handles.append(module.register_forward_hook(count))
    with torch.no_grad():
        extractor(torch.zeros(1, 1, 48, 64))
    for handle in handles:
        handle.remove()
    architecture = ArchitectureConfig(extractor=extractor.config)
    # 60×45 is padded to 64×48.
    ours = {layer.name: layer.macs((60, 45), 0) for layer in layers(architecture)}
    assert ours == counted
    assert total_macs(architecture, (60, 45), 0) == {
        "extractor": sum(counted.values()),
        "matcher": 0,
    }


@pytest.mark.parametrize("name", NAMES)
def test_matcher_macs_equal_those_of_linear_layers_and_attention(
    name: str, models: dict[str, Model]
) -> None:
    matcher = models[name].matcher
    assert matcher is not None
    keypoints, linear, square = 9, 0, 0

    def count_linear(layer: torch.nn.Linear, _: object, output: torch.Tensor) -> None:
        nonlocal linear
        linear += output.shape[1] * layer.weight.numel()

    def count_attention(layer: Attention, inputs: tuple, _: object) -> None:
        nonlocal square
        logits_and_messages = 2 * layer.heads * layer.head_dim
        square += logits_and_messages * inputs[0].shape[1] * inputs[1].shape[1]

    handles = [
        module.register_forward_hook(
            count_linear if isinstance(module, torch.nn.Linear) else count_attention
        )
        for module in matcher.modules()
        if isinstance(module, (torch.nn.Linear, Attention))
    ]
    points, scores = torch.zeros(1, keypoints, 2), torch.zeros(1, keypoints)
    descriptors = torch.zeros(1, keypoints, 16)
    with torch.no_grad():
        matcher(points, scores, descriptors, points, scores, descriptors)
    for handle in handles:
        handle.remove()
    square += keypoints**2 * matcher.config.width  # the score matrix
    assert attention_macs(matcher.config, keypoints) == square
    architecture = ArchitectureConfig(matcher=matcher.config)
    total = total_macs(architecture, (64, 48), keypoints)
    assert total == {"extractor": 0, "matcher": linear + square}

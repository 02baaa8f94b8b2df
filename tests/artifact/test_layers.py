"""What an architecture consists of: against the networks themselves. And folding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import load_artifact
from featherglue.artifact.layers import (
    attention_macs,
    is_parameter,
    layers,
    tensor_shapes,
    total_macs,
)
from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig
from featherglue.models.model import Model
from featherglue.models.superglue import Attention

NAMES = ["one-head", "four-heads", "projected", "bare"]


def learned(architecture: ArchitectureConfig) -> int:
    return sum(
        int(np.prod(shape))
        for name, shape in tensor_shapes(architecture).items()
        if is_parameter(name)
    )


@pytest.mark.parametrize("name", NAMES)
def test_tensor_shapes_are_those_of_the_networks(name: str, models: dict[str, Model]) -> None:
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
    assert 13.315e6 < learned(both) < 13.33e6  # 13.32 M in the study's table
    macs = total_macs(both, (640, 480), 512)
    assert round(macs["extractor"] / 1e9) == 26  # the figures of the design
    assert round(macs["matcher"] / 1e9) == 17


def test_conv1b_alone_costs_11_giga_macs() -> None:
    (conv1b,) = (
        layer
        for layer in layers(ArchitectureConfig(extractor=SuperPointConfig()))
        if layer.name == "extractor.conv1b"
    )
    assert conv1b.macs((640, 480), 0) == 640 * 480 * 64 * 64 * 9


@pytest.mark.parametrize("name", NAMES)
def test_extractor_macs_are_what_the_convolutions_do(name: str, models: dict[str, Model]) -> None:
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
def test_matcher_macs_are_what_linear_layers_and_attention_do(
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


# --- folding --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_folding_changes_no_output(
    name: str, folders: dict[str, Path], grey: np.ndarray, models: dict[str, Model]
) -> None:
    artifact = load_artifact(folders[name])
    folded = fold_batch_norm(artifact)
    assert not any(".running_" in key for key in folded.arrays)
    assert {k: v.shape for k, v in folded.arrays.items()} == tensor_shapes(folded.architecture)
    assert all(array.dtype == np.float32 for array in folded.arrays.values())
    plain = Model.from_artifact(folded)
    original = models[name]
    assert original.extractor is not None
    assert original.matcher is not None
    assert plain.extractor is not None
    assert plain.matcher is not None
    with torch.no_grad():
        image = torch.from_numpy(grey[:64, :64])[None, None].float() / 255
        for ours, theirs in zip(plain.extractor(image), original.extractor(image), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(1, 11, 2, generator=generator), torch.rand(1, 11)]
        inputs.append(torch.randn(1, 11, 16, generator=generator))
        torch.testing.assert_close(
            plain.matcher(*inputs, *inputs),
            original.matcher(*inputs, *inputs),
            atol=1e-3,
            rtol=1e-4,
        )


def test_folding_forgets_where_the_model_came_from(folders: dict[str, Path]) -> None:
    artifact = load_artifact(folders["four-heads"])
    folded = fold_batch_norm(artifact)
    assert (folded.hash, folded.folder) == ("", None)
    assert any(".running_" in key for key in artifact.arrays)  # the original is as it was


def test_folding_is_the_formula(build: Callable[..., Model]) -> None:
    config = SuperPointConfig(
        channels=(1,) * 8,
        detector_channels=1,
        descriptor_channels=1,
        descriptor_dim=1,
        batch_norm=True,
    )
    artifact = build(ArchitectureConfig(extractor=config)).to_artifact()
    folded = fold_batch_norm(artifact)
    gain, offset, mean, variance = (
        float(artifact.arrays[f"extractor.bn2a.{part}"][0])
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    weight, bias = (artifact.arrays[f"extractor.conv2a.{part}"] for part in ("weight", "bias"))
    scale = gain / (variance + 1e-5) ** 0.5
    np.testing.assert_allclose(folded.arrays["extractor.conv2a.weight"], weight * scale, rtol=1e-6)
    np.testing.assert_allclose(
        folded.arrays["extractor.conv2a.bias"], (bias - mean) * scale + offset, rtol=1e-5
    )

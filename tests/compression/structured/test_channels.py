"""Structured pruning: what is 0 goes without a trace, and widths are what was asked for."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import NORM_PARTS, layers
from featherglue.compression.calibration import Inputs
from featherglue.compression.quantization.codebook import CodebookConfig, quantize_codebook
from featherglue.compression.structured.channels import (
    ChannelConfig,
    StructureConfig,
    channel_sizes,
    prune_channels,
    prune_structure,
)
from featherglue.compression.structured.groups import (
    DESCRIPTOR,
    HEAD_DIM,
    WIDTH,
    group_sizes,
    resized,
)
from featherglue.compression.structured.shrink import drop_layers, shrink
from featherglue.compression.structured.unit_importance import layer_energies, unit_energies
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.models.superglue import log_optimal_transport
from featherglue.runtime.base import open_runtime

NAMES = ("one-head", "four-heads", "projected", "half-stem")


def outputs(model: Model, inputs: Inputs) -> list[np.ndarray]:
    """Of both networks, the descriptors of the model's own extractor going into its matcher."""
    assert model.extractor is not None and model.matcher is not None and inputs.sides is not None
    with torch.no_grad():
        found = [part for image in inputs.images for part in model.extractor(image)]
        sides = [
            [*side[:2], torch.nn.functional.normalize(torch.from_numpy(own), dim=-1)]
            for side, own in zip(inputs.sides, descriptors(model, inputs), strict=True)
        ]
        scores = model.matcher(*sides[0], *sides[1])
        found.append(log_optimal_transport(scores, model.matcher.bin_score, 20))
    return [tensor.numpy() for tensor in found]


def descriptors(model: Model, inputs: Inputs) -> list[np.ndarray]:
    """Something like descriptors, of the width that the matcher takes."""
    assert inputs.sides is not None and model.matcher is not None
    width = model.matcher.config.descriptor_dim
    return [side[2][..., :width].numpy() for side in inputs.sides]


def silence(artifact: Artifact, layer: str, rows: Any) -> None:
    """Make output channels of a layer 0, whatever comes in."""
    norm = next(each.norm for each in layers(artifact.architecture) if each.name == layer)
    for part in ("weight", "bias"):
        artifact.arrays[f"{layer}.{part}"][rows] = 0
    for part in NORM_PARTS[:3] if norm else ():
        artifact.arrays[f"{norm}.{part}"][rows] = 0


def agree(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
@pytest.mark.parametrize("name", NAMES)
def test_silent_channels_of_both_networks_go_without_a_trace(
    models: dict[str, Model], inputs: dict[str, Inputs], name: str, importance: Any
) -> None:
    artifact = models[name].to_artifact()
    groups = [g for g in group_sizes(artifact.architecture) if ".conv" in g or "mlp" in g]
    groups += [g for g in group_sizes(artifact.architecture) if ".kenc." in g]
    groups.remove(DESCRIPTOR)
    rng = np.random.default_rng(0)
    for group in groups:
        size = group_sizes(artifact.architecture)[group]
        silence(artifact, group, rng.choice(size, size // 4, replace=False))
    model = Model.from_artifact(artifact)
    config = ChannelConfig(ratio=0.25, importance=importance, include=tuple(groups))
    pruned = prune_channels(model, config, inputs[name])
    was, now = (group_sizes(m.architecture) for m in (model, pruned))
    assert {g: now[g] for g in groups} == {g: was[g] - was[g] // 4 for g in groups}
    assert {g: now[g] for g in now if g not in groups} == {
        g: was[g] for g in was if g not in groups
    }
    agree(outputs(model, inputs[name]), outputs(pruned, inputs[name]))


def test_silent_heads_go_without_a_trace(
    models: dict[str, Model], inputs: dict[str, Inputs]
) -> None:
    """Channel c belongs to head c mod h: heads 1 and 2 of four pass nothing on."""
    artifact = models["four-heads"].to_artifact()
    for i in range(2):
        for head in (1, 2):
            silence(artifact, f"matcher.gnn.layers.{i}.attn.proj.2", slice(head, None, 4))
    model = Model.from_artifact(artifact)
    for importance in ("l2", "taylor"):
        config = StructureConfig(heads=0.5, importance=importance)  # type: ignore[arg-type]
        pruned = prune_structure(model, config, inputs["four-heads"])
        assert pruned.matcher is not None
        assert [layer.heads for layer in pruned.matcher.config.layers] == [2, 2]
        agree(outputs(model, inputs["four-heads"]), outputs(pruned, inputs["four-heads"]))


def test_heads_get_narrower(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    """Of every head one channel in four is silent; the scale of attention stays."""
    artifact = models["four-heads"].to_artifact()
    for i in range(2):
        for j in range(3):
            silence(artifact, f"matcher.gnn.layers.{i}.attn.proj.{j}", slice(4, 8))
    model = Model.from_artifact(artifact)
    pruned = prune_structure(model, StructureConfig(head_dim=0.25))
    assert pruned.matcher is not None
    assert [layer.head_dim for layer in pruned.matcher.config.layers] == [3, 3]
    agree(outputs(model, inputs["four-heads"]), outputs(pruned, inputs["four-heads"]))
    # One layer alone, by name.
    name = f"matcher.gnn.layers.1{HEAD_DIM}"
    pruned = prune_channels(model, ChannelConfig(ratio=0.25, include=(name,)))
    assert pruned.matcher is not None
    assert [layer.head_dim for layer in pruned.matcher.config.layers] == [4, 3]
    agree(outputs(model, inputs["four-heads"]), outputs(pruned, inputs["four-heads"]))


def quiet_features(model: Model, count: int) -> Model:
    """The model, rotated so that `count` directions of its features are never written."""
    artifact = model.to_artifact()
    glue = artifact.architecture.matcher
    assert glue is not None
    q, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((glue.width, glue.width)))
    project = (q[:, count:] @ q[:, count:].T).astype(np.float32)
    last = 3 if glue.batch_norm else 2
    names = [f"matcher.gnn.layers.{i}.mlp.{last}" for i in range(len(glue.layers))]
    names += [f"matcher.kenc.encoder.{last * len(glue.keypoint_encoder)}", "matcher.input_proj"]
    for name in names:
        for part in ("weight", "bias"):
            artifact.arrays[f"{name}.{part}"] = project @ artifact.arrays[f"{name}.{part}"]
    return Model.from_artifact(artifact)


@pytest.mark.parametrize("calibrated", [True, False])
def test_directions_that_nothing_writes_go_without_a_trace(
    models: dict[str, Model], inputs: dict[str, Inputs], calibrated: bool
) -> None:
    """12 wide features of which 4 directions are empty; with heads of 2 × 5 the messages fit."""
    model = quiet_features(models["projected"], 2)
    given = inputs["projected"] if calibrated else None
    pruned = prune_structure(model, StructureConfig(width=1 / 6), given)
    assert pruned.matcher is not None
    assert pruned.matcher.config.width == 10
    agree(outputs(model, inputs["projected"]), outputs(pruned, inputs["projected"]))


def test_descriptors_get_a_projection(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    """A matcher without one, whose descriptors hold nothing in some places, gets narrower."""
    artifact = models["one-head"].to_artifact()
    empty = [1, 7, 8, 15]
    silence(artifact, "extractor.convDb", empty)
    for name in ("kenc.encoder.4", "gnn.layers.0.mlp.2", "gnn.layers.1.mlp.2"):
        silence(artifact, f"matcher.{name}", empty)
    model = Model.from_artifact(artifact)
    sides = inputs["one-head"].sides
    assert sides is not None
    kept = torch.ones(16)
    kept[empty] = 0
    quiet = Inputs(
        images=inputs["one-head"].images,
        sides=tuple((*s[:2], s[2] * kept) for s in sides),  # type: ignore[arg-type]
    )
    # The messages are 16 wide, more than the features: they are approximated, so make them 12.
    artifact.arrays["matcher.gnn.layers.0.attn.merge.weight"][empty] = 0
    artifact.arrays["matcher.gnn.layers.1.attn.merge.weight"][empty] = 0
    model = Model.from_artifact(artifact)
    narrow = prune_structure(model, StructureConfig(width=0.25), quiet)
    assert narrow.matcher is not None
    assert (narrow.matcher.config.width, narrow.matcher.config.descriptor_dim) == (12, 16)
    agree(outputs(model, quiet), outputs(narrow, quiet))
    # The descriptors themselves: the projection puts what is left in place.
    short = prune_channels(model, ChannelConfig(ratio=0.25, include=(DESCRIPTOR,)))
    assert short.extractor is not None and short.matcher is not None
    assert short.matcher.config.descriptor_dim == short.extractor.config.descriptor_dim == 12
    assert short.matcher.config.width == 16
    with torch.no_grad():
        before = model.matcher(*quiet.sides[0], *quiet.sides[1])  # type: ignore
        index = np.setdiff1d(np.arange(16), empty)
        cut = [(*s[:2], s[2][..., index]) for s in quiet.sides]  # type: ignore[union-attr]
        after = short.matcher(*cut[0], *cut[1])
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_silent_layers_go_without_a_trace(
    models: dict[str, Model], inputs: dict[str, Inputs]
) -> None:
    artifact = models["four-heads"].to_artifact()
    silence(artifact, "matcher.gnn.layers.0.mlp.3", slice(None))
    model = Model.from_artifact(artifact)
    assert layer_energies(model, inputs["four-heads"])[0] == 0
    for given in (inputs["four-heads"], None):
        pruned = prune_structure(model, StructureConfig(layers=1), given)
        assert pruned.matcher is not None
        assert [layer.kind for layer in pruned.matcher.config.layers] == ["cross"]
        agree(outputs(model, inputs["four-heads"]), outputs(pruned, inputs["four-heads"]))


def test_the_strongest_channels_stay(models: dict[str, Model]) -> None:
    model = models["bare"]
    weight = model.to_artifact().arrays["extractor.conv4b.weight"]
    bias = model.to_artifact().arrays["extractor.conv4b.bias"]
    norms = np.square(weight).sum((1, 2, 3)) + bias**2
    energies = unit_energies(model, ["extractor.conv4b"], "l2")["extractor.conv4b"]
    np.testing.assert_allclose(energies, norms / norms.sum(), rtol=1e-5)
    pruned = prune_channels(model, ChannelConfig(ratio=0.5))
    assert pruned.extractor is not None
    config = pruned.extractor.config
    assert (config.channels, config.detector_channels) == ((2, 2, 4, 4, 4, 4, 8, 8), 8)
    assert (config.descriptor_channels, config.descriptor_dim) == (8, 16)
    kept = np.sort(np.argsort(-norms)[:8])
    np.testing.assert_array_equal(pruned.to_artifact().arrays["extractor.conv4b.bias"], bias[kept])
    assert model.extractor is not None and model.extractor.config.channels[0] == 4


def test_normalisation_counts_as_part_of_a_channel(models: dict[str, Model]) -> None:
    artifact = models["four-heads"].to_artifact()
    artifact.arrays["extractor.bn2a.weight"][3] = 0
    artifact.arrays["extractor.bn2a.bias"][3] = 0
    energies = unit_energies(Model.from_artifact(artifact), ["extractor.conv2a"], "l2")
    assert energies["extractor.conv2a"].argmin() == 3


def test_a_smaller_model_is_saved_and_runs(
    models: dict[str, Model], inputs: dict[str, Inputs], tmp_path: Any, grey: np.ndarray
) -> None:
    config = StructureConfig(heads=0.5, head_dim=0.25, hidden=0.5, encoder=0.25, width=0.25)
    pruned = prune_structure(models["four-heads"], config, inputs["four-heads"])
    pruned = prune_channels(pruned, ChannelConfig(ratio=0.25))
    artifact = pruned.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").architecture == pruned.architecture
    results = [open_runtime(artifact, name, 1) for name in ("torch", "onnxruntime")]  # type: ignore
    one, other = (runtime.extract(grey) for runtime in results)
    np.testing.assert_allclose(one[0], other[0], atol=1e-4)
    sides = inputs["four-heads"].sides
    assert sides is not None
    arrays = [
        part.numpy()
        for side in sides
        for part in (torch.cat((side[0], side[1][..., None]), -1)[0], side[2][0])
    ]
    np.testing.assert_allclose(results[0].match(*arrays), results[1].match(*arrays), atol=1e-3)


def test_more_kept_is_closer(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    before = outputs(models["projected"], inputs["projected"])[-1]
    errors = []
    for ratio in (0.1, 0.5, 0.8):
        config = StructureConfig(width=ratio, hidden=ratio)
        after = outputs(
            prune_structure(models["projected"], config, inputs["projected"]), inputs["projected"]
        )[-1]
        errors.append(float(np.abs(np.exp(after) - np.exp(before)).mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


# --- what cannot be ------------------------------------------------------------------------


def test_widths_are_multiples_where_they_can_be(models: dict[str, Model]) -> None:
    config = ChannelConfig(ratio=0.4, multiple=8)
    sizes = channel_sizes(models["one-head"].architecture, config)
    assert sizes["extractor.conv1a"] == 4  # has no 8
    assert sizes["extractor.conv3a"] == 8
    assert sizes["extractor.conv4b"] == 8  # 10 is nearer to 8 than to 16


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ChannelConfig(ratio=0.9), "leaves none of the 4 units of extractor.conv1a"),
        (ChannelConfig(include=("extractor.conv7",)), "no layer matches 'extractor.conv7'"),
        (ChannelConfig(ratios={"extractor.conv9": 0.1}), "no layer matches"),
        (StructureConfig(heads=0.3, width=0.999), "leaves none of the 16 units of matcher.width"),
        (StructureConfig(layers=2), "2 layers, of which 2 cannot go"),
    ],
)
def test_nothing_is_removed_whole(models: dict[str, Model], config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        if isinstance(config, ChannelConfig):
            prune_channels(models["one-head"], config)
        else:
            prune_structure(models["one-head"], config)


@pytest.mark.parametrize(
    "make",
    [
        lambda: ChannelConfig(ratio=1.0),
        lambda: ChannelConfig(ratios={"a": -1.0}),
        lambda: ChannelConfig(multiple=0),
        lambda: StructureConfig(hidden=1.2),
        lambda: StructureConfig(layers=-1),
    ],
)
def test_configurations_out_of_range(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_other_models_are_refused(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    alone = Model(extractor=models["one-head"].extractor, matcher=None)
    with pytest.raises(ConfigError, match="no matcher"):
        prune_structure(alone, StructureConfig(heads=0.5))
    with pytest.raises(ConfigError, match="no matcher"):
        drop_layers(alone, (0,))
    other = Model(extractor=None, matcher=models["one-head"].matcher)
    with pytest.raises(ConfigError, match="no extractor"):
        prune_channels(other, ChannelConfig())
    quantized = quantize_codebook(models["one-head"], CodebookConfig())
    with pytest.raises(UsageError, match="prune first"):
        prune_channels(quantized, ChannelConfig())
    with pytest.raises(UsageError, match="needs images"):
        prune_channels(models["one-head"], ChannelConfig(importance="taylor"))
    with pytest.raises(ConfigError, match="no layer 5"):
        drop_layers(models["one-head"], (5,))
    with pytest.raises(ConfigError, match="all 2 layers"):
        drop_layers(models["one-head"], (0, 1))


def test_sizes_that_no_network_has(architectures: dict[str, ArchitectureConfig]) -> None:
    with pytest.raises(ConfigError, match="no group of channels 'x'"):
        resized(architectures["one-head"], {"x": 1})
    for size in (0, 17):
        with pytest.raises(ConfigError, match="16 units"):
            resized(architectures["one-head"], {WIDTH: size})
    with pytest.raises(ConfigError, match="without a projection"):
        resized(architectures["projected"], {DESCRIPTOR: 12})
    both = resized(architectures["one-head"], {DESCRIPTOR: 12, WIDTH: 8})
    assert both.matcher is not None and both.extractor is not None
    assert both.matcher.descriptor_dim == both.extractor.descriptor_dim == 12


def test_descriptor_and_width_together(models: dict[str, Model], inputs: dict[str, Inputs]) -> None:
    model = models["one-head"]
    sizes = {DESCRIPTOR: 12, WIDTH: 8}
    energies = unit_energies(model, list(sizes), "l2", inputs["one-head"])
    pruned = shrink(model, sizes, energies, inputs["one-head"])
    assert group_sizes(pruned.architecture) == group_sizes(resized(model.architecture, sizes))
    assert all(np.isfinite(array).all() for array in outputs(pruned, inputs["one-head"]))
    assert model.architecture == copy.deepcopy(models["one-head"].architecture)

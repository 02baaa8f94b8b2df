"""Structured pruning by ratios: sizes, unchanged outputs where units are zero, and errors."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import NORM_PARTS, layers
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
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
from featherglue.compression.structured.shrink import remove_layers, shrink
from featherglue.compression.structured.unit_importance import layer_energies, unit_energies
from featherglue.config import ArchitectureConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.models.sinkhorn import log_optimal_transport
from featherglue.runtime.base import open_runtime

NAMES = ("one-head", "four-heads", "projected", "half-stem", "context")


def outputs(model: Model, calibration: CalibrationData) -> list[np.ndarray]:
    """Return the outputs of both networks; the matcher receives `descriptors`."""
    assert (
        model.extractor is not None
        and model.matcher is not None
        and calibration.features is not None
    )
    with torch.no_grad():
        found = [part for image in calibration.images for part in model.extractor(image)]
        views = [
            [*view[:2], torch.nn.functional.normalize(torch.from_numpy(own), dim=-1)]
            for view, own in zip(calibration.features, descriptors(model, calibration), strict=True)
        ]
        scores = model.matcher(*views[0], *views[1])
        found.append(log_optimal_transport(scores, model.matcher.bin_score, 20))
    return [tensor.numpy() for tensor in found]


def descriptors(model: Model, calibration: CalibrationData) -> list[np.ndarray]:
    """Return calibration descriptors, cut to the width that the matcher expects."""
    assert calibration.features is not None and model.matcher is not None
    width = model.matcher.config.descriptor_dim
    return [view[2][..., :width].numpy() for view in calibration.features]


def zero_channels(artifact: Artifact, layer: str, rows: Any) -> None:
    """Set output channels of a layer to zero for every input."""
    norm = next(each.norm for each in layers(artifact.architecture) if each.name == layer)
    for part in ("weight", "bias"):
        artifact.arrays[f"{layer}.{part}"][rows] = 0
    for part in NORM_PARTS[:3] if norm else ():
        artifact.arrays[f"{norm}.{part}"][rows] = 0


def assert_close(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
@pytest.mark.parametrize("name", NAMES)
def test_removing_zero_channels_preserves_outputs(
    models: dict[str, Model], calibration: dict[str, CalibrationData], name: str, importance: Any
) -> None:
    artifact = models[name].to_artifact()
    groups = [g for g in group_sizes(artifact.architecture) if ".conv" in g or "mlp" in g]
    groups += [g for g in group_sizes(artifact.architecture) if ".kenc." in g]
    groups.remove(DESCRIPTOR)
    rng = np.random.default_rng(0)
    for group in groups:
        size = group_sizes(artifact.architecture)[group]
        zero_channels(artifact, group, rng.choice(size, size // 4, replace=False))
    model = Model.from_artifact(artifact)
    config = ChannelConfig(ratio=0.25, importance=importance, include=tuple(groups))
    pruned = prune_channels(model, config, calibration[name])
    was, now = (group_sizes(m.architecture) for m in (model, pruned))
    assert {g: now[g] for g in groups} == {g: was[g] - was[g] // 4 for g in groups}
    assert {g: now[g] for g in now if g not in groups} == {
        g: was[g] for g in was if g not in groups
    }
    assert_close(outputs(model, calibration[name]), outputs(pruned, calibration[name]))


def test_removing_zero_heads_preserves_outputs(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    """Channel c belongs to head c mod h. The values of heads 1 and 2 of four are zero."""
    artifact = models["four-heads"].to_artifact()
    for i in range(2):
        for head in (1, 2):
            zero_channels(artifact, f"matcher.gnn.layers.{i}.attn.proj.2", slice(head, None, 4))
    model = Model.from_artifact(artifact)
    for importance in ("l2", "taylor"):
        config = StructureConfig(heads=0.5, importance=importance)  # type: ignore[arg-type]
        pruned = prune_structure(model, config, calibration["four-heads"])
        assert pruned.matcher is not None
        assert [layer.heads for layer in pruned.matcher.config.layers] == [2, 2]
        assert_close(
            outputs(model, calibration["four-heads"]), outputs(pruned, calibration["four-heads"])
        )


def test_removing_zero_channels_of_heads_preserves_outputs(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    """One channel in four of every head is zero; the scale of attention must not change."""
    artifact = models["four-heads"].to_artifact()
    for i in range(2):
        for j in range(3):
            zero_channels(artifact, f"matcher.gnn.layers.{i}.attn.proj.{j}", slice(4, 8))
    model = Model.from_artifact(artifact)
    pruned = prune_structure(model, StructureConfig(head_dim=0.25))
    assert pruned.matcher is not None
    assert [layer.head_dim for layer in pruned.matcher.config.layers] == [3, 3]
    assert_close(
        outputs(model, calibration["four-heads"]), outputs(pruned, calibration["four-heads"])
    )
    # A single layer, by name.
    name = f"matcher.gnn.layers.1{HEAD_DIM}"
    pruned = prune_channels(model, ChannelConfig(ratio=0.25, include=(name,)))
    assert pruned.matcher is not None
    assert [layer.head_dim for layer in pruned.matcher.config.layers] == [4, 3]
    assert_close(
        outputs(model, calibration["four-heads"]), outputs(pruned, calibration["four-heads"])
    )


def with_empty_directions(model: Model, count: int) -> Model:
    """Return a model that never writes to `count` random directions of its features."""
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
def test_removing_empty_directions_preserves_outputs(
    models: dict[str, Model], calibration: dict[str, CalibrationData], calibrated: bool
) -> None:
    """The messages have rank 10 (2 heads of width 5), so that width 10 is exact."""
    model = with_empty_directions(models["projected"], 2)
    data = calibration["projected"] if calibrated else None
    pruned = prune_structure(model, StructureConfig(width=1 / 6), data)
    assert pruned.matcher is not None
    assert pruned.matcher.config.width == 10
    assert_close(
        outputs(model, calibration["projected"]), outputs(pruned, calibration["projected"])
    )


def test_narrow_matcher_gains_a_projection_of_descriptors(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    """The matcher has no projection, and some elements of the descriptors are zero."""
    artifact = models["one-head"].to_artifact()
    empty = [1, 7, 8, 15]
    zero_channels(artifact, "extractor.convDb", empty)
    for name in ("kenc.encoder.4", "gnn.layers.0.mlp.2", "gnn.layers.1.mlp.2"):
        zero_channels(artifact, f"matcher.{name}", empty)
    model = Model.from_artifact(artifact)
    views = calibration["one-head"].features
    assert views is not None
    kept = torch.ones(16)
    kept[empty] = 0
    quiet = CalibrationData(
        images=calibration["one-head"].images,
        features=tuple((*s[:2], s[2] * kept) for s in views),  # type: ignore[arg-type]
    )
    # Messages of rank 16 would be approximated at width 12, so reduce their rank to 12.
    artifact.arrays["matcher.gnn.layers.0.attn.merge.weight"][empty] = 0
    artifact.arrays["matcher.gnn.layers.1.attn.merge.weight"][empty] = 0
    model = Model.from_artifact(artifact)
    narrow = prune_structure(model, StructureConfig(width=0.25), quiet)
    assert narrow.matcher is not None
    assert (narrow.matcher.config.width, narrow.matcher.config.descriptor_dim) == (12, 16)
    assert_close(outputs(model, quiet), outputs(narrow, quiet))
    # Narrower descriptors: the projection maps the kept elements to their places.
    short = prune_channels(model, ChannelConfig(ratio=0.25, include=(DESCRIPTOR,)))
    assert short.extractor is not None and short.matcher is not None
    assert short.matcher.config.descriptor_dim == short.extractor.config.descriptor_dim == 12
    assert short.matcher.config.width == 16
    with torch.no_grad():
        before = model.matcher(*quiet.features[0], *quiet.features[1])  # type: ignore
        index = np.setdiff1d(np.arange(16), empty)
        cut = [(*s[:2], s[2][..., index]) for s in quiet.features]  # type: ignore[union-attr]
        after = short.matcher(*cut[0], *cut[1])
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_removing_zero_layers_preserves_outputs(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    artifact = models["four-heads"].to_artifact()
    zero_channels(artifact, "matcher.gnn.layers.0.mlp.3", slice(None))
    model = Model.from_artifact(artifact)
    assert layer_energies(model, calibration["four-heads"])[0] == 0
    for data in (calibration["four-heads"], None):
        pruned = prune_structure(model, StructureConfig(layers=1), data)
        assert pruned.matcher is not None
        assert [layer.kind for layer in pruned.matcher.config.layers] == ["cross"]
        assert_close(
            outputs(model, calibration["four-heads"]), outputs(pruned, calibration["four-heads"])
        )


def test_channels_of_largest_norm_are_kept(models: dict[str, Model]) -> None:
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


def test_batch_normalization_affects_importance(models: dict[str, Model]) -> None:
    artifact = models["four-heads"].to_artifact()
    artifact.arrays["extractor.bn2a.weight"][3] = 0
    artifact.arrays["extractor.bn2a.bias"][3] = 0
    energies = unit_energies(Model.from_artifact(artifact), ["extractor.conv2a"], "l2")
    assert energies["extractor.conv2a"].argmin() == 3


def test_pruned_model_is_saved_and_runs(
    models: dict[str, Model],
    calibration: dict[str, CalibrationData],
    tmp_path: Any,
    gray: np.ndarray,
) -> None:
    config = StructureConfig(heads=0.5, head_dim=0.25, hidden=0.5, encoder=0.25, width=0.25)
    pruned = prune_structure(models["four-heads"], config, calibration["four-heads"])
    pruned = prune_channels(pruned, ChannelConfig(ratio=0.25))
    artifact = pruned.save(tmp_path / "model")
    assert Model.load(tmp_path / "model").architecture == pruned.architecture
    results = [open_runtime(artifact, name, 1) for name in ("torch", "onnxruntime")]  # type: ignore
    one, other = (runtime.extract(gray) for runtime in results)
    np.testing.assert_allclose(one[0], other[0], atol=1e-4)
    views = calibration["four-heads"].features
    assert views is not None
    arrays = [
        part.numpy()
        for view in views
        for part in (torch.cat((view[0], view[1][..., None]), -1)[0], view[2][0])
    ]
    np.testing.assert_allclose(results[0].match(*arrays), results[1].match(*arrays), atol=1e-3)


def test_error_increases_with_the_ratio(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    before = outputs(models["projected"], calibration["projected"])[-1]
    errors = []
    for ratio in (0.1, 0.5, 0.8):
        config = StructureConfig(width=ratio, hidden=ratio)
        after = outputs(
            prune_structure(models["projected"], config, calibration["projected"]),
            calibration["projected"],
        )[-1]
        errors.append(float(np.abs(np.exp(after) - np.exp(before)).mean()))
    assert 0 < errors[0] < errors[1] < errors[2]


# --- sizes and errors ----------------------------------------------------------------------


def test_sizes_are_multiples_where_possible(models: dict[str, Model]) -> None:
    config = ChannelConfig(ratio=0.4, multiple=8)
    sizes = channel_sizes(models["one-head"].architecture, config)
    assert sizes["extractor.conv1a"] == 4  # smaller than the multiple
    assert sizes["extractor.conv3a"] == 8
    assert sizes["extractor.conv4b"] == 8  # 10 rounds to 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ChannelConfig(ratio=0.9), "removes all 4 units of extractor.conv1a"),
        (ChannelConfig(include=("extractor.conv7",)), "no layer matches 'extractor.conv7'"),
        (ChannelConfig(ratios={"extractor.conv9": 0.1}), "no layer matches"),
        (StructureConfig(heads=0.3, width=0.999), "removes all 16 units of matcher.width"),
        (StructureConfig(layers=2), "2 layers; 2 of them cannot be removed"),
    ],
)
def test_impossible_sizes_raise(models: dict[str, Model], config: Any, message: str) -> None:
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
def test_settings_out_of_range_raise(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()


def test_unsuitable_models_raise(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    alone = Model(extractor=models["one-head"].extractor, matcher=None)
    with pytest.raises(ConfigError, match="no matcher"):
        prune_structure(alone, StructureConfig(heads=0.5))
    with pytest.raises(ConfigError, match="no matcher"):
        remove_layers(alone, (0,))
    other = Model(extractor=None, matcher=models["one-head"].matcher)
    with pytest.raises(ConfigError, match="no extractor"):
        prune_channels(other, ChannelConfig())
    quantized = quantize_codebook(models["one-head"], CodebookConfig())
    with pytest.raises(UsageError, match="prune first"):
        prune_channels(quantized, ChannelConfig())
    with pytest.raises(UsageError, match="requires calibration images"):
        prune_channels(models["one-head"], ChannelConfig(importance="taylor"))
    with pytest.raises(ConfigError, match="no layer 5"):
        remove_layers(models["one-head"], (5,))
    with pytest.raises(ConfigError, match="all 2 layers"):
        remove_layers(models["one-head"], (0, 1))


def test_resized_checks_sizes(architectures: dict[str, ArchitectureConfig]) -> None:
    with pytest.raises(ConfigError, match="no group 'x'"):
        resized(architectures["one-head"], {"x": 1})
    for size in (0, 17):
        with pytest.raises(ConfigError, match="16 units"):
            resized(architectures["one-head"], {WIDTH: size})
    with pytest.raises(ConfigError, match="has no projection"):
        resized(architectures["projected"], {DESCRIPTOR: 12})
    both = resized(architectures["one-head"], {DESCRIPTOR: 12, WIDTH: 8})
    assert both.matcher is not None and both.extractor is not None
    assert both.matcher.descriptor_dim == both.extractor.descriptor_dim == 12


def test_descriptor_and_width_together(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    model = models["one-head"]
    sizes = {DESCRIPTOR: 12, WIDTH: 8}
    energies = unit_energies(model, list(sizes), "l2", calibration["one-head"])
    pruned = shrink(model, sizes, energies, calibration["one-head"])
    assert group_sizes(pruned.architecture) == group_sizes(resized(model.architecture, sizes))
    assert all(np.isfinite(array).all() for array in outputs(pruned, calibration["one-head"]))
    assert model.architecture == copy.deepcopy(models["one-head"].architecture)

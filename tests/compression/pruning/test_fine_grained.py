"""Fine-grained pruning: ratios, scopes, patterns, and masks during training."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from featherglue.artifact.layers import layers
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.pruning.fine_grained import PruneConfig, compute_masks, prune
from featherglue.compression.pruning.gradual import GradualMasks, ScheduleConfig, pruned_fraction
from featherglue.compression.pruning.masks import Masks
from featherglue.compression.pruning.sparsity_patterns import unit_ids
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.quantization.qat import finish_qat, prepare_qat
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.train.engine.loop import train
from featherglue.train.engine.loop_config import LoopConfig


def sparsity(model: Model) -> dict[str, float]:
    arrays = model.to_artifact().arrays
    return {
        layer.name: float(np.mean(arrays[f"{layer.name}.weight"] == 0))
        for layer in layers(model.architecture)
    }


def test_smallest_weights_of_each_layer_are_removed(models: dict[str, Model]) -> None:
    model = models["four-heads"]
    before, arrays = sparsity(model), model.to_artifact().arrays
    pruned = prune(model, PruneConfig(ratio=0.75))
    for name, share in sparsity(pruned).items():
        size = arrays[f"{name}.weight"].size
        assert share == round(0.75 * size) / size
        kept = pruned.to_artifact().arrays[f"{name}.weight"]
        was = np.abs(arrays[f"{name}.weight"])
        assert was[kept == 0].max() <= was[kept != 0].min()
        np.testing.assert_array_equal(kept[kept != 0], arrays[f"{name}.weight"][kept != 0])
    assert sparsity(model) == before


def test_globs_select_layers_and_ratios(models: dict[str, Model]) -> None:
    config = PruneConfig(
        ratio=0.5,
        ratios={"matcher.gnn.*": 0.25, "*.mlp.3": 0.75},
        include=("matcher.*", "extractor.conv2a"),
        exclude=("*.merge",),
    )
    shares = sparsity(prune(models["four-heads"], config))
    assert shares["extractor.conv1b"] == shares["matcher.gnn.layers.0.attn.merge"] == 0
    assert shares["extractor.conv2a"] == shares["matcher.final_proj"] == 0.5
    assert shares["matcher.gnn.layers.1.mlp.0"] == 0.25
    assert shares["matcher.gnn.layers.1.mlp.3"] == 0.75


def test_global_scope_compares_all_layers(models: dict[str, Model]) -> None:
    model = models["one-head"]
    config = PruneConfig(ratio=0.6, scope="global", ratios={"extractor.conv1a": 0.0})
    pruned = prune(model, config)
    names = [layer.name for layer in layers(model.architecture)][1:]
    before, after = model.to_artifact().arrays, pruned.to_artifact().arrays
    was = np.concatenate([np.abs(before[f"{name}.weight"]).ravel() for name in names])
    removed = np.concatenate([after[f"{name}.weight"].ravel() == 0 for name in names])
    assert removed.sum() == round(0.6 * removed.size)
    assert was[removed].max() <= was[~removed].min()
    shares = sparsity(pruned)
    assert shares["extractor.conv1a"] == 0
    assert len({round(share, 3) for share in shares.values()}) > 10


def test_every_layer_keeps_a_weight(models: dict[str, Model]) -> None:
    artifact = models["one-head"].to_artifact()
    artifact.arrays["extractor.conv2a.weight"] *= np.float32(1e-6)
    pruned = prune(Model.from_artifact(artifact), PruneConfig(ratio=0.9, scope="global"))
    assert np.count_nonzero(pruned.to_artifact().arrays["extractor.conv2a.weight"]) == 1


def test_row_scope_prunes_each_output_channel(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    model = models["one-head"]
    config = PruneConfig(ratio=0.5, scope="row", importance="activation", include=("matcher.*",))
    weight = (
        prune(model, config, calibration["one-head"])
        .to_artifact()
        .arrays["matcher.final_proj.weight"]
    )
    np.testing.assert_array_equal((weight == 0).sum(1), 8)
    by_magnitude = prune(model, PruneConfig(ratio=0.5, scope="row")).to_artifact().arrays
    assert ((weight == 0) != (by_magnitude["matcher.final_proj.weight"] == 0)).any()


def test_pattern_2_of_4(models: dict[str, Model]) -> None:
    model = models["one-head"]
    pruned = prune(model, PruneConfig(pattern="2:4"))
    shares = sparsity(pruned)
    # These layers have 1 and 3 inputs.
    assert shares["extractor.conv1a"] == shares["matcher.kenc.encoder.0"] == 0
    weight = pruned.to_artifact().arrays["extractor.conv3b.weight"]
    groups = np.moveaxis(weight, 1, -1).reshape(-1, 4)
    np.testing.assert_array_equal((groups != 0).sum(1), 2)
    was = np.abs(np.moveaxis(model.to_artifact().arrays["extractor.conv3b.weight"], 1, -1))
    was = was.reshape(-1, 4)
    assert (np.where(groups == 0, was, 0).max(1) <= np.where(groups != 0, was, 9).min(1)).all()
    with pytest.raises(ConfigError, match="conv1a has 1 inputs, which is not a multiple of 4"):
        prune(model, PruneConfig(pattern="2:4", include=("extractor.*",)))


def test_pattern_of_blocks_of_four_outputs(models: dict[str, Model]) -> None:
    model = models["projected"]  # two heads of width 5: the last block has two rows
    pruned = prune(model, PruneConfig(ratio=0.5, pattern="4x1"))
    weight = pruned.to_artifact().arrays["matcher.gnn.layers.0.attn.proj.0.weight"]
    for rows in (slice(0, 4), slice(4, 8), slice(8, 10)):
        block = weight[rows] != 0
        assert (block.all(0) | ~block.any(0)).all()
    assert 0.4 < np.mean(weight == 0) < 0.6
    ids = unit_ids((6, 2, 1, 1), (4, 1))
    np.testing.assert_array_equal(ids[:, :, 0, 0], [[0, 1]] * 4 + [[2, 3]] * 2)


def test_pattern_of_blocks_of_eight_inputs(models: dict[str, Model]) -> None:
    model = models["projected"]  # its features have 12 channels: the last block has four inputs
    arrays = prune(model, PruneConfig(ratio=0.5, pattern="1x8")).to_artifact().arrays
    for name in ("matcher.gnn.layers.0.attn.proj.0", "extractor.conv4b"):
        kept = arrays[f"{name}.weight"] != 0
        for columns in (slice(0, 8), slice(8, None)):
            block = kept[:, columns]
            assert (block.all(1) | ~block.any(1)).all()
        assert 0.3 < kept.mean() < 0.7
    ids = unit_ids((2, 10, 1, 3), (1, 8))
    np.testing.assert_array_equal(ids[1, :, 0], [[6, 7, 8]] * 8 + [[9, 10, 11]] * 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": 1.0}, r"ratio must be in \[0, 1\), not 1.0"),
        ({"ratio": -0.1}, "not -0.1"),
        ({"ratio": float("nan")}, "not nan"),
        ({"ratios": {"matcher.*": 1.5}}, r"matcher\.\*: a ratio"),
        ({"pattern": "4:4"}, "N must be less"),
        ({"pattern": "0:4"}, "pattern must be"),
        ({"pattern": "x1"}, "pattern must be"),
        ({"pattern": "2x2"}, "pattern must be"),
        ({"pattern": "2:4", "ratios": {"*": 0.5}}, "determines the ratio"),
    ],
)
def test_invalid_settings_raise(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PruneConfig(**values)


def test_unknown_layers_and_quantized_models_raise(models: dict[str, Model]) -> None:
    with pytest.raises(
        ConfigError, match=r"'extractor\.conv9a'; the closest names are extractor\.conv"
    ):
        prune(models["one-head"], PruneConfig(include=("extractor.conv9a",)))
    with pytest.raises(ConfigError, match="no layer matches"):
        prune(models["one-head"], PruneConfig(ratios={"nothing": 0.1}))
    quantized = quantize_codebook(models["one-head"], CodebookConfig())
    with pytest.raises(UsageError, match="prune first"):
        prune(quantized, PruneConfig())


# --- masks ----------------------------------------------------------------------------------


def test_masks_are_recovered_from_zeros(models: dict[str, Model]) -> None:
    config = PruneConfig(ratio=0.5, include=("matcher.*",))
    masks = compute_masks(models["four-heads"], config)
    pruned = masks.apply(models["four-heads"])
    again = Masks.from_zeros(pruned)
    assert set(again.kept) == set(masks.kept)
    for name, mask in masks.kept.items():
        np.testing.assert_array_equal(again.kept[name], mask)
    assert masks.sparsity == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ConfigError, match="the mask of"):
        masks.apply(models["projected"])


def optimize(network: nn.Module, constraint: Any, count: int, decay: float = 0.9) -> nn.Module:
    """Optimize like the training loop: AdamW, the constraint, the average, the constraint."""
    average = copy.deepcopy(network).eval()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    network.train()
    for step in range(count):
        loss = sum(((p - 0.1 * step) ** 2).sum() for p in network.parameters())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        optimizer.step()
        constraint(network)
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        constraint(average)
    return average


@pytest.mark.slow
def test_zeros_stay_during_optimization_and_averaging(models: dict[str, Model]) -> None:
    pruned = prune(models["one-head"], PruneConfig(ratio=0.8))
    masks = Masks.from_zeros(pruned)
    trained = copy.deepcopy(nn.ModuleList([pruned.extractor, pruned.matcher]))
    average = optimize(trained, masks.apply_to, 4)
    for networks in (trained, average):
        made = Model(extractor=networks[0], matcher=networks[1])  # type: ignore
        assert sparsity(made) == sparsity(pruned)
        first = made.to_artifact().arrays["extractor.conv1b.weight"]
        assert (first != pruned.to_artifact().arrays["extractor.conv1b.weight"]).any()


class Noise:
    """A data set of random images."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {"image": torch.rand(1, 16, 16, generator=generator)}


def test_zeros_stay_in_the_training_loop(models: dict[str, Model], tmp_path: Path) -> None:
    pruned = prune(models["bare"], PruneConfig(ratio=0.8, include=("extractor.*",)))
    network = copy.deepcopy(pruned.extractor)
    assert network is not None

    def loss(network: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
        logits, descriptors = network.forward_raw(batch["image"])  # type: ignore[operator]
        return logits.square().mean() + descriptors.square().mean(), {}

    config = LoopConfig(steps=3, batch_size=2, warmup=0, workers=0, bf16=False, validate_steps=99)
    constraint = Masks.from_zeros(pruned).apply_to
    average = train(network, loss, Noise(), config, tmp_path / "run", constraint=constraint)
    for trained in (network, average):
        made = Model(extractor=trained, matcher=None)
        shares = sparsity(pruned)
        assert sparsity(made) == {name: shares[name] for name in sparsity(made)}
        weight = trained.get_submodule("conv3a").weight
        assert not torch.equal(weight, pruned.extractor.get_submodule("conv3a").weight)  # type: ignore


@pytest.mark.parametrize("kind", ["linear", "codebook"])
def test_zeros_stay_in_quantization_aware_training(models: dict[str, Model], kind: str) -> None:
    pruned = prune(models["one-head"], PruneConfig(ratio=0.7))
    if kind == "linear":
        config = LinearConfig(activation_bits=0, correct_bias=False)
        quantized = quantize_linear(pruned, config)
    else:
        quantized = quantize_codebook(pruned, CodebookConfig(bits=4))
    trainable = prepare_qat(quantized, pruned)
    assert trainable.extractor is not None
    optimize(trainable.extractor, Masks.from_zeros(pruned).apply_to, 3)
    finished = finish_qat(trainable)
    assert (sparsity(finished)["extractor.conv3a"]) >= sparsity(pruned)["extractor.conv3a"] > 0.69
    before = quantized.to_artifact().arrays["extractor.conv3a.weight"]
    assert (finished.to_artifact().arrays["extractor.conv3a.weight"] != before).any()


# --- gradual pruning ------------------------------------------------------------------------


def test_cubic_schedule() -> None:
    schedule = ScheduleConfig(start=10, end=110, initial=0.2)
    ends = [pruned_fraction(step, schedule) for step in (0, 10, 110, 500)]
    assert ends == pytest.approx([0.2, 0.2, 1, 1])
    assert pruned_fraction(60, schedule) == pytest.approx(1 - 0.8 / 8)
    fractions = [pruned_fraction(step, schedule) for step in range(10, 111)]
    assert (np.diff(fractions) > 0).all()
    assert (np.diff(fractions, 2) < 1e-12).all()


def test_gradual_masks_follow_the_schedule(models: dict[str, Model]) -> None:
    network = copy.deepcopy(models["one-head"].matcher)
    assert network is not None
    config = PruneConfig(ratio=0.8, include=("matcher.*",), exclude=("*.final_proj",))
    gradual = GradualMasks(config, ScheduleConfig(start=2, end=12, every=3))
    seen: list[float] = []

    def constraint(net: nn.Module) -> None:
        gradual.apply_to(net)
        seen.append(float((net.get_submodule("gnn.layers.0.mlp.0").weight == 0).float().mean()))

    optimize(network, constraint, 15)
    trained, averaged = seen[::2], seen[1::2]
    assert trained == averaged
    assert trained[0] == 0
    due = [pruned_fraction(step, gradual.schedule) * 0.8 for step in (2, 5, 8, 11, 12)]
    np.testing.assert_allclose([trained[s - 1] for s in (2, 5, 8, 11, 12)], due, atol=1e-3)
    assert trained[5:7] == [trained[4]] * 2
    assert trained[11:] == [trained[11]] * 4
    assert bool((network.get_submodule("final_proj").weight != 0).all())


def test_gradual_masks_continue_in_a_resumed_run(models: dict[str, Model]) -> None:
    config, schedule = PruneConfig(ratio=0.8), ScheduleConfig(end=10, every=4)
    for step, expected in ((5, pruned_fraction(4, schedule)), (20, 1.0)):
        network = copy.deepcopy(models["bare"].extractor)
        assert network is not None
        GradualMasks(config, schedule, step=step).apply_to(network.train())
        share = float((network.get_submodule("conv3a").weight == 0).float().mean())
        assert share == pytest.approx(0.8 * expected, abs=2e-3)


def test_invalid_schedules_raise() -> None:
    for values in ({"end": 0}, {"end": 5, "start": 5}, {"end": 5, "every": 0}):
        with pytest.raises(ConfigError):
            ScheduleConfig(**values)
    with pytest.raises(ConfigError, match="initial"):
        ScheduleConfig(end=5, initial=1.5)
    with pytest.raises(ConfigError, match="magnitude"):
        GradualMasks(PruneConfig(importance="taylor"), ScheduleConfig(end=5))
    with pytest.raises(ConfigError, match="N:M"):
        GradualMasks(PruneConfig(pattern="2:4"), ScheduleConfig(end=5))

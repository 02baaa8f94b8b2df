"""Structured pruning to a budget."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featherglue.artifact.layers import layers, total_macs
from featherglue.compression.calibration import CalibrationData
from featherglue.compression.structured.groups import WIDTH, group_sizes, resized
from featherglue.compression.structured.mac_budget import (
    ATTENTION,
    MacsConfig,
    check_macs,
    cost_of,
    find_sizes,
    prune_to_macs,
)
from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    SuperGlueConfig,
    SuperPointConfig,
)
from featherglue.errors import ConfigError
from featherglue.models.model import Model

SMALL = MacsConfig(budget=0.4, image_size=(160, 120), num_keypoints=64, multiple=1)


def macs(architecture: ArchitectureConfig) -> int:
    return sum(total_macs(architecture, (160, 120), 64).values())


@pytest.mark.parametrize("name", ["one-head", "four-heads", "projected", "half-stem"])
def test_budget_is_met_closely(
    models: dict[str, Model], calibration: dict[str, CalibrationData], name: str
) -> None:
    model = models[name]
    pruned = prune_to_macs(model, SMALL, calibration[name])
    share = macs(pruned.architecture) / macs(model.architecture)
    assert 0.3 < share <= 0.4
    was, now = group_sizes(model.architecture), group_sizes(pruned.architecture)
    for group, size in now.items():
        assert was[group] >= size >= -(-was[group] // 8), group
    assert now["extractor.convDb"] == was["extractor.convDb"]
    assert pruned.extractor is not None and pruned.matcher is not None


def published(sizes: tuple[int, ...] = (64, 64, 64, 64, 128, 128, 128, 128)) -> ArchitectureConfig:
    layer = (AttentionConfig(kind="self"), AttentionConfig(kind="cross"))
    return ArchitectureConfig(
        extractor=SuperPointConfig(channels=sizes), matcher=SuperGlueConfig(layers=layer * 3)
    )


def uniform_energies(architecture: ArchitectureConfig) -> dict[str, np.ndarray]:
    return {
        name: np.full(size, 1 / size)
        for name, size in group_sizes(architecture).items()
        if not name.endswith(".attn") and name != "extractor.convDb"
    }


def test_expensive_layers_shrink_most() -> None:
    """With the published sizes and uniform energies."""
    architecture = published()
    for share in (0.25, 0.1):
        config = MacsConfig(budget=share)
        cost = cost_of(architecture, config)
        target = share * cost(architecture)
        sizes = find_sizes(architecture, uniform_energies(architecture), cost, target, config)
        assert 0.9 * target < cost(resized(architecture, sizes)) <= target
        left = {
            name: sizes[name] / old
            for name, old in group_sizes(architecture).items()
            if name in sizes
        }
        early = [left[f"extractor.conv{name}"] for name in ("1a", "1b", "2a", "2b")]
        late = [left[f"extractor.conv{name}"] for name in ("3a", "3b", "4a", "4b", "Pa", "Da")]
        assert np.mean(early) < 0.8 * np.mean(late)
        assert left["extractor.conv1b"] == min(left.values())
        assert all(size % 8 == 0 for name, size in sizes.items())


def test_units_without_energy_are_removed_first() -> None:
    architecture = published()
    energies = uniform_energies(architecture)
    energies["extractor.convDa"] = np.repeat((2 / 256, 0.0), 128)
    config = MacsConfig(budget=0.9)
    cost = cost_of(architecture, config)
    sizes = find_sizes(architecture, energies, cost, 0.99 * cost(architecture), config)
    assert sizes["extractor.convDa"] < 256
    others = {n: s for n, s in sizes.items() if n != "extractor.convDa"}
    assert others == {n: s for n, s in group_sizes(architecture).items() if n in others}


def test_latencies_replace_macs(models: dict[str, Model]) -> None:
    """If only the final projection of the matcher takes time, only the feature width shrinks."""
    model = models["one-head"]
    latencies = {layer.name: 0.0 for layer in layers(model.architecture)} | {ATTENTION: 0.0}
    latencies["matcher.final_proj"] = 5.0
    config = MacsConfig(
        budget=0.5, latencies=latencies, image_size=(160, 120), num_keypoints=64, multiple=1
    )
    pruned = prune_to_macs(model, config)
    was, now = group_sizes(model.architecture), group_sizes(pruned.architecture)
    assert {name for name in now if now[name] < was[name]} == {WIDTH}
    assert (now[WIDTH] / 16) ** 2 <= 0.5 < ((now[WIDTH] + 1) / 16) ** 2


def test_layers_are_removed_first(
    models: dict[str, Model], calibration: dict[str, CalibrationData]
) -> None:
    config = MacsConfig(budget=0.5, layers=1, image_size=(160, 120), num_keypoints=64, multiple=1)
    pruned = prune_to_macs(models["four-heads"], config, calibration["four-heads"])
    assert pruned.matcher is not None
    assert len(pruned.matcher.config.layers) == 1
    assert macs(pruned.architecture) <= 0.5 * macs(models["four-heads"].architecture)


def test_only_included_groups_shrink(models: dict[str, Model]) -> None:
    config = MacsConfig(budget=0.95, include=("extractor.conv1*",), multiple=1)
    pruned = prune_to_macs(models["one-head"], config)
    was, now = group_sizes(models["one-head"].architecture), group_sizes(pruned.architecture)
    changed = {name for name in now if now[name] < was[name]}
    assert changed and changed <= {"extractor.conv1a", "extractor.conv1b"}


def test_impossible_budgets_raise(models: dict[str, Model]) -> None:
    with pytest.raises(ConfigError, match="cannot be reached: the smallest possible budget is"):
        prune_to_macs(models["one-head"], MacsConfig(budget=0.001))
    architecture = models["one-head"].architecture
    cases: list[tuple[dict[str, Any], str]] = [
        ({"include": ("nothing",)}, "no layer matches"),
        ({"latencies": {"extractor.conv1a": 1.0}}, "is missing"),
        ({"layers": 2}, "2 layers"),
        ({"include": (WIDTH, "extractor.convDb")}, "cannot both"),
    ]
    for values, message in cases:
        with pytest.raises(ConfigError, match=message):
            check_macs(architecture, MacsConfig(budget=0.5, **values))
    for values in (
        {"budget": 0.0},
        {"budget": 1.5},
        {"budget": 0.5, "min_fraction": 0.0},
        {"budget": 0.5, "multiple": 0},
        {"budget": 0.5, "layers": -1},
        {"budget": 0.5, "latencies": {"a": float("inf")}},
    ):
        with pytest.raises(ConfigError):
            MacsConfig(**values)  # type: ignore[arg-type]

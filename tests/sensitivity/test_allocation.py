"""Allocation of pruning ratios at the least cost."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from featherglue.artifact.layers import layers
from featherglue.errors import ConfigError
from featherglue.models.model import Model
from featherglue.sensitivity.allocation import allocate, weight_counts

WEIGHTS = {"a": 100, "b": 300, "c": 50, "d": 550}


def cost(curve: dict[float, float], ratio: float) -> float:
    points = {0.0: 0.0, **curve}
    return float(np.interp(ratio, sorted(points), [points[r] for r in sorted(points)]))


def test_sparsity_is_met_at_the_least_cost() -> None:
    rng = np.random.default_rng(0)
    grid = np.linspace(0.1, 0.9, 9)
    for _ in range(5):
        # The curves are convex, so that no point of a grid is better.
        costs = {
            name: {float(r): float(a * r**2 + b * r**6) for r in grid}
            for name, (a, b) in zip("abc", rng.uniform(0, 5, (3, 2)), strict=True)
        }
        ratios = allocate(costs, WEIGHTS, 0.3)
        assert sum(ratios[n] * WEIGHTS[n] for n in ratios) == pytest.approx(0.3 * 1000)
        found = sum(cost(costs[n], ratios[n]) for n in ratios)
        fine = np.linspace(0, 0.9, 46)
        for a, c in itertools.product(fine, fine):
            b = (300 - 100 * a - 50 * c) / 300
            if 0 <= b <= 0.9:
                other = cost(costs["a"], a) + cost(costs["b"], b) + cost(costs["c"], c)
                assert found <= other + 1e-9


def test_layers_without_cost_are_pruned_first() -> None:
    costs = {"a": {0.5: 0.0, 0.9: 9.0}, "b": {0.5: 5.0}, "c": {0.5: -1.0, 0.9: 0.0}}
    assert allocate(costs, WEIGHTS, 0.07) == {"a": pytest.approx(0.45), "b": 0, "c": 0.5}
    assert allocate(costs, WEIGHTS, 0.0) == {"a": 0, "b": 0, "c": 0}


def test_noisy_points_above_the_hull_are_ignored() -> None:
    costs = {"a": {0.3: 4.0, 0.6: 0.5, 0.9: 8.0}, "b": {0.6: 3.0}}
    assert allocate(costs, {"a": 100, "b": 100}, 0.3) == {"a": pytest.approx(0.6), "b": 0}


def test_invalid_costs_and_sparsities_raise() -> None:
    with pytest.raises(ConfigError, match=r"reach a sparsity of at most 0\.0900, not 0\.5"):
        allocate({"a": {0.9: 1.0}}, WEIGHTS, 0.5)
    with pytest.raises(ConfigError, match="sparsity must be"):
        allocate({}, WEIGHTS, 1.0)
    with pytest.raises(ConfigError, match="'e'"):
        allocate({"e": {0.5: 1.0}}, WEIGHTS, 0.1)
    with pytest.raises(ConfigError, match="a ratio must be in"):
        allocate({"a": {1.0: 1.0}}, WEIGHTS, 0.1)
    with pytest.raises(ConfigError, match="not nan"):
        allocate({"a": {0.5: float("nan")}}, WEIGHTS, 0.1)


def test_weight_counts(models: dict[str, Model]) -> None:
    arrays = models["projected"].to_artifact().arrays
    counts = weight_counts(models["projected"].architecture)
    assert counts == {
        layer.name: arrays[f"{layer.name}.weight"].size
        for layer in layers(models["projected"].architecture)
    }

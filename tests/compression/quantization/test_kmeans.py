"""k-means quantization: centroids, initialization, zeros and selected layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from featherglue.artifact.encodings import CodebookTensor
from featherglue.artifact.layers import layers
from featherglue.compression.layer_selection import select_layers
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import (
    CodebookConfig,
    cluster_weight,
    kmeans,
    nearest_centroid,
    quantize_codebook,
)
from featherglue.errors import ConfigError
from featherglue.models.model import Model

RNG = np.random.default_rng
STARTS = ("linear", "density", "random")


def lloyd(values: np.ndarray, centroids: np.ndarray, iterations: int) -> np.ndarray:
    """Textbook k-means."""
    for _ in range(iterations):
        nearest = np.abs(values[:, None] - centroids).argmin(1)
        for k in range(len(centroids)):
            if (nearest == k).any():
                centroids[k] = values[nearest == k].mean()
    return np.sort(centroids)


def cost(values: np.ndarray, centroids: np.ndarray) -> float:
    return float(np.square(values[:, None] - centroids).min(1).sum())


def test_centroids_agree_with_textbook_k_means() -> None:
    values = RNG(0).standard_normal(2000).astype(np.float32)
    found = kmeans(values, 8, "linear", 1000, RNG(0))
    expected = lloyd(values.astype(float), np.linspace(values.min(), values.max(), 8), 400)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("start", STARTS)
def test_every_initialization_converges(start: Any) -> None:
    values = RNG(1).laplace(size=3000).astype(np.float32)
    found = kmeans(values, 16, start, 1000, RNG(0))
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(lloyd(values.astype(float), found.copy(), 1), found, atol=1e-9)
    few = kmeans(values, 16, start, 1, RNG(0))
    assert cost(values, found) < cost(values, few)


def test_empty_clusters_are_moved() -> None:
    """With an outlier, most of the evenly spaced centroids start without values."""
    values = np.append(RNG(2).standard_normal(1000), 1000).astype(np.float32)
    found = kmeans(values, 8, "linear", 1000, RNG(0))
    assert len(np.unique(np.abs(values[:, None] - found).argmin(1))) == 8
    assert found[-1] == 1000
    assert cost(values, found) < 60  # it exceeds 190 if the other values share three clusters


def test_few_distinct_values_are_exact() -> None:
    values = np.repeat(np.array([0.5, -1.0, 3.0], np.float32), 50)
    np.testing.assert_array_equal(kmeans(values, 8, "linear", 10, RNG(0))[:3], [-1, 0.5, 3])
    assert len(kmeans(np.zeros(0, np.float32), 4, "linear", 10, RNG(0))) == 4


def test_nearest_centroid() -> None:
    centroids = np.sort(RNG(3).standard_normal(9)).astype(np.float32)
    values = RNG(4).standard_normal((50, 7)).astype(np.float32)
    expected = np.abs(values[..., None] - centroids).argmin(-1)
    np.testing.assert_array_equal(nearest_centroid(values, centroids), expected)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_zeros_stay_zero(bits: int) -> None:
    weight = RNG(5).standard_normal((6, 40)).astype(np.float32)
    weight[RNG(6).random(weight.shape) < 0.6] = 0
    code = cluster_weight(weight, CodebookConfig(bits=bits), RNG(0))
    np.testing.assert_array_equal(code.decode() == 0, weight == 0)
    assert code.keeps_zero
    free = cluster_weight(weight, CodebookConfig(bits=2, keep_zero=False), RNG(0)).decode()
    assert len(np.unique(free)) == 4


def test_codebooks_for_groups_of_channels() -> None:
    """The error is smaller if rows of different scale have their own codebooks."""
    scales = np.array([1, 1, 10, 10, 100, 100], np.float32)[:, None]
    weight = RNG(7).standard_normal((6, 50)).astype(np.float32) * scales
    errors = []
    for channels in (0, 2):
        code = cluster_weight(weight, CodebookConfig(bits=3, channels=channels), RNG(0))
        assert len(code.codebook) == (3 if channels else 1)
        errors.append(np.abs((code.decode() - weight) / scales).mean())
    assert errors[1] < 0.5 * errors[0]


def test_selected_layers_of_a_model(models: dict[str, Model]) -> None:
    pruned = prune(models["four-heads"], PruneConfig(ratio=0.6))
    config = CodebookConfig(bits=3, include=("matcher.*", "*.conv4?"), exclude=("*.final_proj",))
    made = quantize_codebook(pruned, config)
    before, after = pruned.to_artifact().arrays, made.to_artifact().arrays
    names = [layer.name for layer in layers(made.architecture)]
    selected = set(select_layers(names, names, config.include, config.exclude))
    assert {name.removesuffix(".weight") for name in made.quantization.tensors} == selected
    for name in names:
        weight, was = after[f"{name}.weight"], before[f"{name}.weight"]
        if name in selected:
            assert len(np.unique(weight)) <= 8 < len(np.unique(was))
            np.testing.assert_array_equal(weight == 0, was == 0)
        else:
            np.testing.assert_array_equal(weight, was)
        np.testing.assert_array_equal(after[f"{name}.bias"], before[f"{name}.bias"])


def test_error_decreases_with_bits(models: dict[str, Model]) -> None:
    before = models["one-head"].to_artifact().arrays["matcher.final_proj.weight"]
    errors = []
    for bits in (2, 4, 6, 8):
        made = quantize_codebook(models["one-head"], CodebookConfig(bits=bits))
        code = made.quantization.tensors["matcher.final_proj.weight"]
        assert isinstance(code, CodebookTensor)
        errors.append(float(np.square(code.decode() - before).mean()))
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < 1e-5 * before.var()


def test_invalid_settings_raise(models: dict[str, Model]) -> None:
    for values in ({"bits": 1}, {"bits": 9}, {"channels": -1}, {"iterations": 0}):
        with pytest.raises(ConfigError):
            CodebookConfig(**values)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no layer matches"):
        quantize_codebook(models["bare"], CodebookConfig(include=("x",)))
    large = np.full((2, 2), 1e6, np.float32)
    with pytest.raises(ConfigError, match="overflows float16"):
        cluster_weight(large, CodebookConfig(), RNG(0))
    code = cluster_weight(large, CodebookConfig(dtype="float32"), RNG(0))
    np.testing.assert_array_equal(code.decode(), large)

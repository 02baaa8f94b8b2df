"""Cost of models: parameters, MACs and bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.artifact.layers import attention_macs, layers, total_macs
from featherglue.compression.cost import model_cost
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.errors import UsageError
from featherglue.models.model import Model


def file_size(artifact: Artifact) -> int:
    assert artifact.folder is not None
    return sum(path.stat().st_size for path in artifact.folder.iterdir())


def test_cost_of_a_dense_model(folders: dict[str, Path]) -> None:
    artifact = load_artifact(folders["four-heads"])
    cost = model_cost(artifact)
    assert cost.parameters == artifact.num_parameters
    assert cost.nonzero == artifact.num_nonzero
    assert cost.macs == cost.effective_macs == total_macs(artifact.architecture)
    assert cost.study_bytes == 4 * cost.nonzero
    assert cost.bytes_on_disk == file_size(artifact)
    assert cost.study_ratio == pytest.approx(cost.parameters / cost.nonzero)
    assert 0.3 < cost.disk_ratio < 1  # headers and the model card count
    assert not cost.saturates
    assert [row.name for row in cost.layers] == [
        layer.name for layer in layers(artifact.architecture)
    ]
    first = cost.layers[0]
    assert first.parameters == 4 * 9 + 4 + 2 * 4  # with bias and batch normalization
    assert first.bytes == 4 * (4 * 9 + 4 + 4 * 4)  # with running statistics
    assert first.macs == first.effective_macs == 4 * 9 * 640 * 480
    # bin_score does not belong to a layer.
    assert sum(row.parameters for row in cost.layers) == cost.parameters - 1


def test_zero_weights_reduce_effective_macs(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["one-head"]
    artifact = prune(model, PruneConfig(ratio=0.75)).save(tmp_path / "pruned")
    cost = model_cost(artifact, model.to_artifact(), (320, 240), 100)
    dense = total_macs(model.architecture, (320, 240), 100)
    assert cost.macs == dense
    assert model.architecture.matcher is not None
    products = attention_macs(model.architecture.matcher, 100)
    assert cost.effective_macs["extractor"] == pytest.approx(0.25 * dense["extractor"], rel=0.01)
    rest = cost.effective_macs["matcher"] - products
    assert rest == pytest.approx(0.25 * (dense["matcher"] - products), rel=0.01)
    for row in cost.layers:
        assert row.sparsity == pytest.approx(0.75, abs=0.02)
    assert cost.study_bytes == 4 * cost.nonzero
    assert cost.study_ratio == pytest.approx(cost.parameters / cost.nonzero)
    assert cost.bytes_on_disk == file_size(artifact)
    arrays = model.to_artifact().arrays.values()
    assert cost.disk_ratio == 4 * sum(array.size for array in arrays) / file_size(artifact)


def test_bits_determine_bytes(models: dict[str, Model], tmp_path: Path) -> None:
    """The matcher has codebooks of 3 bits; the rest is float16."""
    model = quantize_codebook(models["one-head"], CodebookConfig(bits=3, include=("matcher.*",)))
    artifact = model.save(tmp_path / "coded", "float16")
    cost = model_cost(artifact)
    bits = 0
    for name, array in artifact.arrays.items():
        coded = name.startswith("matcher.") and name.endswith(".weight")
        bits += np.count_nonzero(array) * (3 if coded else 16)
    assert cost.study_bytes == round(bits / 8)
    row = next(row for row in cost.layers if row.name == "matcher.final_proj")
    assert (row.scheme, row.bits, row.integer) == ("codebook", 3, False)
    assert row.float_reason == "the weight is a codebook"
    # 256 codes of 3 bits, 8 float16 values, 16 float16 biases and one byte for the coding.
    assert row.bytes <= 256 * 3 // 8 + 16 + 32 + 1
    assert row.study_bytes == (256 - np.sum(artifact.arrays["matcher.final_proj.weight"] == 0)) * (
        3 / 8
    ) + 2 * np.count_nonzero(artifact.arrays["matcher.final_proj.bias"])


def test_bytes_of_layers_add_up_to_the_file(
    models: dict[str, Model], calibration: dict[str, object], tmp_path: Path
) -> None:
    config = LinearConfig(activation_bits=0, correct_bias=False)
    artifact = quantize_linear(models["four-heads"], config).save(tmp_path / "linear")
    cost = model_cost(artifact)
    data = (tmp_path / "linear" / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert sum(row.bytes for row in cost.layers) + 4 == len(data) - header  # bin_score
    reasons = {row.float_reason for row in cost.layers if row.scheme == "linear"}
    assert reasons == {"the input is not quantized"}


def test_integer_layers_and_saturation(
    models: dict[str, Model], calibration: dict[str, object], tmp_path: Path
) -> None:
    for reduce_range in (True, False):
        config = LinearConfig(reduce_range=reduce_range, correct_bias=False)
        model = quantize_linear(models["one-head"], config, calibration["one-head"])  # type: ignore[arg-type]
        cost = model_cost(model.save(tmp_path / f"{reduce_range}"))
        assert cost.saturates is not reduce_range
        integer = [row for row in cost.layers if row.integer]
        assert len(integer) > 10
        assert {row.bits for row in integer} == {7 if reduce_range else 8}


def test_unsaved_artifact_raises(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="save the model first"):
        model_cost(replace(models["bare"].to_artifact(), folder=None))

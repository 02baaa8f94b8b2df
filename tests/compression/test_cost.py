"""Costs are counted from what is there: weights, and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.artifact.layers import attention_macs, layers, total_macs
from featherglue.compression.cost import account
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.codebook import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.errors import UsageError
from featherglue.models.model import Model


def file_size(artifact: Artifact) -> int:
    assert artifact.folder is not None
    return sum(path.stat().st_size for path in artifact.folder.iterdir())


def test_a_dense_model(folders: dict[str, Path]) -> None:
    artifact = load_artifact(folders["four-heads"])
    counted = account(artifact)
    assert counted.parameters == artifact.num_parameters
    assert counted.nonzero == artifact.num_nonzero
    assert counted.macs == counted.effective_macs == total_macs(artifact.architecture)
    assert counted.study_bytes == 4 * counted.nonzero
    assert counted.bytes_on_disk == file_size(artifact)
    assert counted.study_ratio == pytest.approx(counted.parameters / counted.nonzero)
    assert 0.3 < counted.disk_ratio < 1  # headers and card count
    assert not counted.saturates
    assert [row.name for row in counted.layers] == [
        layer.name for layer in layers(artifact.architecture)
    ]
    first = counted.layers[0]
    assert first.parameters == 4 * 9 + 4 + 2 * 4  # with bias and normalisation
    assert first.bytes == 4 * (4 * 9 + 4 + 4 * 4)  # with its statistics
    assert first.macs == first.effective_macs == 4 * 9 * 640 * 480
    # bin_score belongs to no layer.
    assert sum(row.parameters for row in counted.layers) == counted.parameters - 1


def test_zeros_cost_no_macs(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["one-head"]
    artifact = prune(model, PruneConfig(ratio=0.75)).save(tmp_path / "pruned")
    counted = account(artifact, model.to_artifact(), (320, 240), 100)
    dense = total_macs(model.architecture, (320, 240), 100)
    assert counted.macs == dense
    assert model.architecture.matcher is not None
    products = attention_macs(model.architecture.matcher, 100)
    assert counted.effective_macs["extractor"] == pytest.approx(0.25 * dense["extractor"], rel=0.01)
    rest = counted.effective_macs["matcher"] - products
    assert rest == pytest.approx(0.25 * (dense["matcher"] - products), rel=0.01)
    for row in counted.layers:
        assert row.sparsity == pytest.approx(0.75, abs=0.02)
    assert counted.study_bytes == 4 * counted.nonzero
    assert counted.study_ratio == pytest.approx(counted.parameters / counted.nonzero)
    assert counted.bytes_on_disk == file_size(artifact)
    arrays = model.to_artifact().arrays.values()
    assert counted.disk_ratio == 4 * sum(array.size for array in arrays) / file_size(artifact)


def test_bits_count(models: dict[str, Model], tmp_path: Path) -> None:
    """Codebooks of 3 bits in the matcher, half floats elsewhere."""
    model = quantize_codebook(models["one-head"], CodebookConfig(bits=3, include=("matcher.*",)))
    artifact = model.save(tmp_path / "coded", "float16")
    counted = account(artifact)
    bits = 0
    for name, array in artifact.arrays.items():
        coded = name.startswith("matcher.") and name.endswith(".weight")
        bits += np.count_nonzero(array) * (3 if coded else 16)
    assert counted.study_bytes == round(bits / 8)
    row = next(row for row in counted.layers if row.name == "matcher.final_proj")
    assert (row.scheme, row.bits, row.integer) == ("codebook", 3, False)
    assert row.why_float == "its weight is a codebook"
    # 256 codes of 3 bits, a codebook of eight half floats, 16 half biases, and how it is coded.
    assert row.bytes <= 256 * 3 // 8 + 16 + 32 + 1
    assert row.study_bytes == (256 - np.sum(artifact.arrays["matcher.final_proj.weight"] == 0)) * (
        3 / 8
    ) + 2 * np.count_nonzero(artifact.arrays["matcher.final_proj.bias"])


def test_the_bytes_of_the_layers_are_those_of_the_file(
    models: dict[str, Model], inputs: dict[str, object], tmp_path: Path
) -> None:
    config = LinearConfig(activation_bits=0, correct_bias=False)
    artifact = quantize_linear(models["four-heads"], config).save(tmp_path / "linear")
    counted = account(artifact)
    data = (tmp_path / "linear" / "model.safetensors").read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    assert sum(row.bytes for row in counted.layers) + 4 == len(data) - header  # bin_score
    reasons = {row.why_float for row in counted.layers if row.scheme == "linear"}
    assert reasons == {"its input is not quantized"}


def test_whole_numbers_and_saturation(
    models: dict[str, Model], inputs: dict[str, object], tmp_path: Path
) -> None:
    for reduce_range in (True, False):
        config = LinearConfig(reduce_range=reduce_range, correct_bias=False)
        model = quantize_linear(models["one-head"], config, inputs["one-head"])  # type: ignore[arg-type]
        counted = account(model.save(tmp_path / f"{reduce_range}"))
        assert counted.saturates is not reduce_range
        whole = [row for row in counted.layers if row.integer]
        assert len(whole) > 10
        assert {row.bits for row in whole} == {7 if reduce_range else 8}


def test_what_was_never_saved_has_no_bytes(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="save it first"):
        account(replace(models["bare"].to_artifact(), folder=None))

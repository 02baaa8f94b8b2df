"""Folding of batch normalization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import load_artifact
from featherglue.artifact.layers import tensor_shapes
from featherglue.config import ArchitectureConfig, SuperPointConfig
from featherglue.models.model import Model

NAMES = ["one-head", "four-heads", "projected", "bare"]


@pytest.mark.parametrize("name", NAMES)
def test_folding_keeps_the_outputs(name: str, folders: dict[str, Path], gray: np.ndarray) -> None:
    artifact = load_artifact(folders[name])
    folded = fold_batch_norm(artifact)
    assert not any(".running_" in key for key in folded.arrays)
    assert {k: v.shape for k, v in folded.arrays.items()} == tensor_shapes(folded.architecture)
    assert all(array.dtype == np.float32 for array in folded.arrays.values())
    plain = Model.from_artifact(folded)
    original = Model.from_artifact(artifact)
    assert original.extractor is not None
    assert original.matcher is not None
    assert plain.extractor is not None
    assert plain.matcher is not None
    with torch.no_grad():
        image = torch.from_numpy(gray[:64, :64])[None, None].float() / 255
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


def test_folding_gives_an_unsaved_artifact(folders: dict[str, Path]) -> None:
    artifact = load_artifact(folders["four-heads"])
    folded = fold_batch_norm(artifact)
    assert (folded.hash, folded.folder) == ("", None)
    assert any(".running_" in key for key in artifact.arrays)  # the original is unchanged


def test_folding_by_hand(build: Callable[..., Model]) -> None:
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

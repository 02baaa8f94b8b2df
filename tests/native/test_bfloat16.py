"""Attention layers that multiply in bfloat16, compared with those in float32."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.config import ArchitectureConfig, AttentionConfig, SuperGlueConfig
from featherglue.models.model import Model
from featherglue.native.library import kernels_name, library, multiplies_bfloat16
from featherglue.runtime.native_ import NativeRuntime
from featherglue.session import load

pytestmark = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="the processor does not multiply bfloat16"
)

LAYERS = {
    "widths of an even number of tiles": ((32, 1, 64, 128), 64),
    "widths of an odd number of tiles": ((16, 3, 48, 80), 48),
    "padded widths": ((20, 2, 40, 70), 40),
}


def runtimes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, threads: int = 1
) -> list[NativeRuntime]:
    """The runtime with bfloat16 and without."""
    artifact = load_artifact(folder)
    both = [NativeRuntime(artifact, threads)]
    with monkeypatch.context() as patch:
        patch.setenv("FEATHERGLUE_BF16", "0")
        both.append(NativeRuntime(artifact, threads))
    return both


def inputs(counts: tuple[int, int], dim: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    found: list[np.ndarray] = []
    for count in counts:
        described = rng.standard_normal((count, dim))
        described /= np.linalg.norm(described, axis=1, keepdims=True)
        points = rng.random((count, 3)) - (0.5, 0.5, 0)
        found += [points.astype(np.float32), described.astype(np.float32)]
    return found


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("counts", [(1, 1), (1, 30), (33, 2), (47, 64), (131, 95), (400, 333)])
def test_scores_are_those_of_float32(
    name: str, counts: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (head_dim, heads, width, hidden), dim = LAYERS[name]
    layers = tuple(
        AttentionConfig(kind=kind, heads=heads, head_dim=head_dim, hidden=hidden)  # type: ignore[arg-type]
        for kind in ("self", "cross", "self", "cross")
    )
    config = SuperGlueConfig(
        descriptor_dim=dim, width=width, keypoint_encoder=(16,), layers=layers, batch_norm=False
    )
    torch.manual_seed(0)
    Model.build(ArchitectureConfig(matcher=config)).save(tmp_path / "model")
    fast, exact = runtimes(tmp_path / "model", monkeypatch)
    given = inputs(counts, dim)
    found, expected = fast.match(*given), exact.match(*given)
    assert found.shape == counts
    scale = max(float(np.abs(expected).mean()), 1e-3)
    assert not np.array_equal(found, expected)
    assert np.abs(found - expected).mean() < 0.01 * scale
    again = NativeRuntime(load_artifact(tmp_path / "model"), 3).match(*given)
    np.testing.assert_array_equal(again, found)  # whatever the number of threads


def test_matches_of_the_shipped_model(
    photographs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = cv2.resize(photographs["coffee"], (640, 480), interpolation=cv2.INTER_AREA)
    turn = cv2.getRotationMatrix2D((320, 240), 20, 0.9)
    moved = np.asarray(cv2.warpAffine(image, turn, (640, 480)), np.uint8)
    fast = load("fast", threads=1, search="off")
    monkeypatch.setenv("FEATHERGLUE_BF16", "0")
    exact = load("fast", threads=1, search="off")
    found, expected = fast(image, moved).matches, exact(image, moved).matches
    pairs, others = (set(map(tuple, one.indices.tolist())) for one in (found, expected))
    assert len(pairs & others) > 0.98 * len(pairs | others)
    scores = dict(zip(map(tuple, expected.indices.tolist()), expected.scores, strict=True))
    differences = [
        abs(score - scores[pair])
        for pair, score in zip(map(tuple, found.indices.tolist()), found.scores, strict=True)
        if pair in scores
    ]
    assert np.mean(differences) < 0.005


def test_the_environment_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = library()
    assert loaded is not None
    assert loaded.has_bfloat16()
    assert kernels_name() == "libkernels_x86_64_v3, bfloat16"
    monkeypatch.setenv("FEATHERGLUE_BF16", "0")
    assert not multiplies_bfloat16()
    assert kernels_name() == "libkernels_x86_64_v3"

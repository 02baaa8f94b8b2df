"""Attention layers that multiply in bfloat16, compared with those in float32."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.config import ArchitectureConfig, AttentionConfig, SuperGlueConfig
from featherglue.models.model import Model
from featherglue.native import library as native_library
from featherglue.native import network_kernels
from featherglue.native.library import kernels_name, library, library_name, multiplies_bfloat16
from featherglue.runtime.native_ import NativeRuntime
from featherglue.session import load

needs_kernels = pytest.mark.skipif(library_name() is None, reason="the kernels are not compiled")
needs_bfloat16 = pytest.mark.skipif(
    not multiplies_bfloat16(), reason="the processor does not multiply bfloat16"
)

# Heads, width of a head, width of the hidden layer: of each layer.
LAYERS = {
    "an even number of tiles": [(1, 32, 128)] * 4,
    "an odd number of tiles": [(3, 16, 80)] * 4,
    "padded widths": [(2, 20, 70)] * 4,
    "different layers": [(4, 16, 96), (1, 48, 64), (3, 16, 128), (2, 16, 48)],
}
WIDTH = 48
QUERY_SCALE, SCALE = 4, 1.5  # of the initial weights
Inputs = Sequence[np.ndarray]


def make_model(
    folder: Path, sizes: Sequence[tuple[int, int, int]], *, attends: bool = True
) -> Path:
    """A matcher with random weights whose attention is far from uniform, or uniform."""
    layers = tuple(
        AttentionConfig(kind=kind, heads=heads, head_dim=head_dim, hidden=hidden)  # type: ignore[arg-type]
        for kind, (heads, head_dim, hidden) in zip(("self", "cross") * 2, sizes, strict=True)
    )
    config = SuperGlueConfig(
        descriptor_dim=WIDTH, width=WIDTH, keypoint_encoder=(16,), layers=layers, batch_norm=False
    )
    torch.manual_seed(0)
    model = Model.build(ArchitectureConfig(matcher=config))
    assert model.matcher is not None
    with torch.no_grad():
        for name, weight in model.matcher.named_parameters():
            if "gnn" in name and weight.dim() > 1:
                is_query, is_key = ".proj.0." in name, ".proj.1." in name
                weight.mul_(QUERY_SCALE if is_query or is_key else SCALE)
                weight.mul_(attends or not is_query)
    model.save(folder)
    return folder


def runtimes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[NativeRuntime, NativeRuntime]:
    """The runtime with bfloat16 and without."""
    artifact = load_artifact(folder)
    fast = NativeRuntime(artifact, 2)
    with monkeypatch.context() as patch:
        patch.setenv("FEATHERGLUE_BF16", "0")
        return fast, NativeRuntime(artifact, 2)


def inputs(counts: tuple[int, int]) -> Inputs:
    rng = np.random.default_rng(0)
    found: list[np.ndarray] = []
    for count in counts:
        described = rng.standard_normal((count, WIDTH))
        described /= np.linalg.norm(described, axis=1, keepdims=True)
        points = rng.random((count, 3)) - (0.5, 0.5, 0)
        found += [points.astype(np.float32), described.astype(np.float32)]
    return found


def difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference of scores, relative to their spread."""
    spread = expected.std() if expected.size > 1 else abs(expected.item())
    return float(np.abs(found - expected).mean() / spread)


@needs_bfloat16
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("counts", [(1, 1), (1, 30), (33, 2), (47, 64), (131, 95), (400, 333)])
def test_scores_are_those_of_float32(
    name: str, counts: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_model(tmp_path / "model", LAYERS[name])
    fast, exact = runtimes(folder, monkeypatch)
    given = inputs(counts)
    found, expected = fast.match(*given), exact.match(*given)
    assert found.shape == counts
    assert not np.array_equal(found, expected)
    assert difference(found, expected) < (0.006 if found.size > 1 else 0.02)
    for threads in (1, 2, 3):
        again = NativeRuntime(load_artifact(folder), threads).match(*given)
        np.testing.assert_array_equal(again, found)


@needs_bfloat16
@pytest.mark.parametrize("name", LAYERS)
def test_attention_decides_the_scores_of_these_tests(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = inputs((131, 95))
    _, exact = runtimes(make_model(tmp_path / "model", LAYERS[name]), monkeypatch)
    folder = make_model(tmp_path / "uniform", LAYERS[name], attends=False)
    _, uniform = runtimes(folder, monkeypatch)
    assert difference(uniform.match(*given), exact.match(*given)) > 0.015


@needs_bfloat16
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
    assert fast.describe()["matcher"]["bfloat16"] is True  # results of both are kept apart
    assert "bfloat16" not in exact.describe()["matcher"]
    assert fast.fingerprint() == exact.fingerprint()


class Processor:
    """A library on a processor that multiplies bfloat16, or does not."""

    _name = "libkernels_x86_64_v3.so"

    def __init__(self, answer: int) -> None:
        self.has_bfloat16: Callable[[], int] = lambda: answer


@pytest.mark.parametrize(
    ("loaded", "setting", "name"),
    [
        (Processor(1), None, "libkernels_x86_64_v3, bfloat16"),
        (Processor(1), "1", "libkernels_x86_64_v3, bfloat16"),
        (Processor(1), "0", "libkernels_x86_64_v3"),
        (Processor(0), None, "libkernels_x86_64_v3"),
        (None, None, ""),
    ],
)
def test_the_processor_and_the_environment_decide(
    loaded: Any, setting: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_library, "library", lambda: loaded)
    monkeypatch.delenv("FEATHERGLUE_BF16", raising=False)
    if setting is not None:
        monkeypatch.setenv("FEATHERGLUE_BF16", setting)
    assert kernels_name() == name
    assert multiplies_bfloat16() == name.endswith("bfloat16")


@needs_kernels
def test_a_processor_without_bfloat16_multiplies_float32(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library for every processor has no products in bfloat16."""
    plain = ctypes.CDLL(str(Path(native_library.__file__).parent / "libkernels.so"))
    for function, (result, arguments) in native_library._SIGNATURES.items():
        kernel = getattr(plain, function)
        kernel.restype, kernel.argtypes = result, arguments
    assert not plain.has_bfloat16()
    _, exact = runtimes(make_model(tmp_path / "model", LAYERS["padded widths"]), monkeypatch)
    expected = exact.match(*inputs((47, 64)))
    monkeypatch.setattr(network_kernels, "library", lambda: plain)
    exact.bfloat16 = True
    assert library() is not plain
    np.testing.assert_allclose(exact.match(*inputs((47, 64))), expected, rtol=1e-3, atol=1e-3)

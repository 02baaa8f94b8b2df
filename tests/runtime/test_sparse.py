"""The sparse runtime: which networks it runs, its errors, and its products against NumPy."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from zeros import with_zeros

import featherglue as fg
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.cli import main
from featherglue.config import ActivationStorage, SuperGlueConfig
from featherglue.errors import ResourceError, RuntimeUnavailableError
from featherglue.native import sparse_networks
from featherglue.native.sparse_networks import match_sparse, runs_sparse_networks
from featherglue.runtime import sparse_
from featherglue.runtime.base import open_runtime
from featherglue.runtime.sparse_ import SparseRuntime, zero_fractions
from featherglue.runtime.sparse_weights import pack_matcher

needs_kernels = pytest.mark.skipif(not runs_sparse_networks(), reason="no kernels with AVX2")


@pytest.fixture(scope="module")
def dense(folders: dict[str, Path]) -> Artifact:
    return load_artifact(folders["one-head"])


@pytest.fixture(scope="module")
def pruned(dense: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return save_artifact(tmp_path_factory.mktemp("pruned") / "model", with_zeros(dense))


@needs_kernels
@pytest.mark.parametrize(
    ("networks", "engines"),
    [
        ((), {"extractor": "sparse", "matcher": "sparse"}),
        (("matcher",), {"extractor": "native", "matcher": "sparse"}),
        (("extractor",), {"extractor": "sparse", "matcher": "native"}),
    ],
)
def test_dense_networks_run_in_the_native_runtime(
    networks: tuple[str, ...],
    engines: dict[str, str],
    dense: Artifact,
    tmp_path: Path,
    gray: np.ndarray,
) -> None:
    artifact = save_artifact(tmp_path / "model", with_zeros(dense, *networks))
    runtime = SparseRuntime(artifact, 1)
    assert runtime.engines == engines
    scores, descriptors = runtime.extract(gray[:64, :64])
    expected = open_runtime(artifact, "onnxruntime", 1).extract(gray[:64, :64])
    np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    np.testing.assert_allclose(descriptors, expected[1], atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("name", ["context", "half-stem"])
def test_extractors_that_the_sparse_kernels_lack_run_dense(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    artifact = save_artifact(tmp_path / name, with_zeros(load_artifact(folders[name])))
    engines = SparseRuntime(artifact, 1).engines
    assert engines == {"extractor": "native", "matcher": "sparse"}


@needs_kernels
def test_quantized_activations_run_in_onnx_runtime(pruned: Artifact, tmp_path: Path) -> None:
    stored = {"matcher.final_proj": ActivationStorage(scale=0.05, zero_point=128)}
    quantization = dataclasses.replace(pruned.quantization, activations=stored)
    artifact = dataclasses.replace(pruned, quantization=quantization, hash="", folder=None)
    runtime = SparseRuntime(save_artifact(tmp_path / "model", artifact), 1)
    assert runtime.engines == {"extractor": "sparse", "matcher": "onnxruntime"}


@needs_kernels
def test_dense_models_are_rejected(dense: Artifact) -> None:
    with pytest.raises(
        RuntimeUnavailableError, match=r"85% in the extractor .* extractor 0%, matcher 0%"
    ):
        open_runtime(dense, "sparse", 1)


@needs_kernels
def test_fractions_count_as_they_are_printed(
    pruned: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    for zeros, engine in ((0.5996, "sparse"), (0.594, "native")):
        fractions = {"extractor": 0.9, "matcher": zeros}
        monkeypatch.setattr(sparse_, "zero_fractions", lambda *args, f=fractions: f)
        assert SparseRuntime(pruned, 1).engines["matcher"] == engine


@needs_kernels
def test_the_command_line_reports_a_dense_model(
    dense: Artifact, shifted: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["match", *map(str, shifted), "--model", str(dense.folder)]
    assert main([*arguments, "--runtime", "sparse"]) == 1
    assert "needs zero weights" in " ".join(capsys.readouterr().err.split())


def test_processors_without_avx2_are_rejected(
    pruned: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("libkernels", None):
        monkeypatch.setattr(sparse_networks, "library_name", lambda name=name: name)
        with pytest.raises(RuntimeUnavailableError, match="AVX2"):
            open_runtime(pruned, "sparse", 1)


@needs_kernels
def test_lack_of_memory_names_the_setting(
    pruned: Artifact, gray: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take(size: int) -> np.ndarray:
        raise MemoryError

    runtime = open_runtime(pruned, "sparse", 1)
    points, descriptors = np.zeros((3, 3), np.float32), np.zeros((3, 16), np.float32)
    monkeypatch.setattr(sparse_networks.memory, "take", take)
    with pytest.raises(ResourceError, match="max_keypoints"):
        runtime.match(points, descriptors, points, descriptors)
    with pytest.raises(ResourceError, match="resize"):
        runtime.extract(gray[:64, :64])


@needs_kernels
@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
def test_no_keypoints_give_an_empty_matrix(counts: tuple[int, int], pruned: Artifact) -> None:
    sets = [(np.zeros((n, 3), np.float32), np.zeros((n, 16), np.float32)) for n in counts]
    assert open_runtime(pruned, "sparse", 2).match(*sets[0], *sets[1]).shape == counts


@needs_kernels
def test_sessions_and_the_number_of_threads(pruned: Artifact, gray: np.ndarray) -> None:
    assert pruned.folder is not None
    results = []
    for threads in (1, 2, 5):
        session = fg.load(str(pruned.folder), runtime="sparse", threads=threads, search="off")
        assert session.runtime == "sparse"
        results.append(session(gray, np.rot90(gray, 2)))
    for result in results[1:]:  # the tiles are computed alone, so their order does not matter
        np.testing.assert_array_equal(result.matches.points0, results[0].matches.points0)
        np.testing.assert_array_equal(
            result.features0.descriptors, results[0].features0.descriptors
        )


@needs_kernels
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("width", [1, 4, 12, 33])
def test_products_agree_with_numpy(ratio: float, block: int, width: int) -> None:
    """A matcher without layers: two products of the keypoint encoder and one of the projection."""
    rng = np.random.default_rng(width)
    config = SuperGlueConfig(
        descriptor_dim=7, width=width, keypoint_encoder=(20,), layers=(), batch_norm=False
    )
    arrays = {}
    sizes = {"kenc.encoder.0": (20, 3), "kenc.encoder.2": (width, 20)}
    sizes |= {"input_proj": (width, 7), "final_proj": (width, width)}
    for name, (outputs, inputs) in sizes.items():
        kept = np.repeat(rng.random((-(-outputs // block), inputs)) >= ratio, block, 0)[:outputs]
        weight = rng.normal(size=(outputs, inputs)) * kept
        arrays[f"matcher.{name}.weight"] = weight.astype(np.float32)
        arrays[f"matcher.{name}.bias"] = rng.normal(size=outputs).astype(np.float32)
    points = [rng.normal(size=(count, 3)).astype(np.float32) for count in (40, 3)]
    descriptors = [rng.normal(size=(len(p), 7)).astype(np.float32) for p in points]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ arrays[f"matcher.{name}.weight"].T + arrays[f"matcher.{name}.bias"]

    projected = []
    for p, d in zip(points, descriptors, strict=True):
        encoded = linear("kenc.encoder.2", np.maximum(linear("kenc.encoder.0", p), 0))
        projected.append(linear("final_proj", encoded + linear("input_proj", d)))
    expected = projected[0] @ projected[1].T / np.sqrt(width)
    network = pack_matcher(arrays, config)
    found = match_sparse(network, (points[0], points[1]), (descriptors[0], descriptors[1]), 1)
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1, np.abs(expected).max()))


def test_zero_fractions(dense: Artifact) -> None:
    assert zero_fractions(dense) == {"extractor": 0.0, "matcher": 0.0}
    found = zero_fractions(with_zeros(dense, "matcher"))
    assert found["extractor"] == 0
    assert found["matcher"] == pytest.approx(0.6, abs=0.02)

"""Agreement of all runtimes with PyTorch, and the cache of ONNX graphs."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from zeros import with_zeros

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.cli import main
from featherglue.config import ActivationStorage
from featherglue.errors import OutputError, RuntimeUnavailableError, UsageError
from featherglue.export.cache import cache_folder
from featherglue.export.networks import export_onnx
from featherglue.matching.keypoints import pad_to_cells
from featherglue.models.model import Model
from featherglue.native.library import library_name
from featherglue.native.sparse_networks import runs_sparse_networks
from featherglue.options import settings
from featherglue.runtime import native_
from featherglue.runtime.base import Runtime, open_runtime
from featherglue.runtime.native_ import native_obstacle

ARTIFACTS = ["one-head", "four-heads", "projected", "context", "bare"]
# Runtimes of every model; the sparse one runs pruned models only.
INSTALLED = [
    name
    for name in settings()["runtime"].choices
    if name not in ("auto", "sparse")
    and (name != "openvino" or find_spec("openvino"))
    and (name != "native" or library_name())
]
HELD = [*INSTALLED, *(["sparse"] if runs_sparse_networks() else [])]
# (N0, N1): equal, padded on either side, single keypoints, more than one kernel tile.
COUNTS = [(40, 40), (1, 1), (1, 30), (33, 1), (7, 64), (65, 12)]

Match = Callable[..., np.ndarray]


@pytest.fixture(scope="module", params=ARTIFACTS)
def artifact(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Artifact:
    return load_artifact(folders[request.param])


@pytest.fixture(scope="module", params=HELD)
def opened(
    request: pytest.FixtureRequest, artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Runtime, Artifact]:
    """A runtime and its model."""
    if request.param == "sparse":
        folder = tmp_path_factory.mktemp("pruned") / "model"
        artifact = save_artifact(folder, with_zeros(artifact))
    if request.param == "native" and native_obstacle(artifact):
        pytest.skip(native_obstacle(artifact))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERGLUE_BF16", "0")  # see tests/native/test_bfloat16.py
        return open_runtime(artifact, request.param, 1), artifact


@pytest.fixture(scope="module")
def runtime(opened: tuple[Runtime, Artifact]) -> Runtime:
    return opened[0]


@pytest.fixture(scope="module")
def model(opened: tuple[Runtime, Artifact]) -> Model:
    return Model.from_artifact(opened[1])


def matcher_inputs(counts: tuple[int, int], seed: int = 0) -> list[np.ndarray]:
    """The four inputs of `Runtime.match`."""
    rng = np.random.default_rng(seed)
    inputs: list[np.ndarray] = []
    for count in counts:
        keypoints = rng.random((count, 3)) - (0.5, 0.5, 0)
        descriptors = rng.standard_normal((count, 16))
        descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
        inputs += [keypoints.astype(np.float32), descriptors.astype(np.float32)]
    return inputs


@pytest.mark.parametrize("shape", [(64, 96), (8, 8), (8, 200), (61, 90)])
def test_extract_agrees_with_pytorch(
    shape: tuple[int, int], runtime: Runtime, model: Model, gray: np.ndarray
) -> None:
    image = pad_to_cells(np.ascontiguousarray(gray[50 : 50 + shape[0], 20 : 20 + shape[1]]))
    scores, descriptors = runtime.extract(image)
    assert model.extractor is not None
    with torch.no_grad():
        tensor = torch.from_numpy(image)[None, None].float() / 255
        heat, _ = model.extractor(tensor)
        dense = model.extractor.forward_raw(tensor)[1]
    height, width = image.shape
    assert scores.shape == (height, width)
    assert descriptors.shape == (height // 8, width // 8, 16)
    assert scores.dtype == descriptors.dtype == np.float32
    assert 0 <= scores.min() < scores.max() <= 1
    np.testing.assert_allclose(scores, heat[0], atol=1e-4)
    expected = dense[0].permute(1, 2, 0).numpy()
    error = np.linalg.norm(descriptors - expected, axis=2)
    assert (error / np.linalg.norm(expected, axis=2)).max() < 1e-4


@pytest.mark.parametrize("counts", COUNTS)
def test_match_agrees_with_pytorch(counts: tuple[int, int], runtime: Runtime, model: Model) -> None:
    k0, d0, k1, d1 = inputs = matcher_inputs(counts)
    scores = runtime.match(*inputs)
    assert scores.shape == counts
    assert scores.dtype == np.float32
    assert model.matcher is not None
    with torch.no_grad():
        tensors = (k0[:, :2], k0[:, 2], d0, k1[:, :2], k1[:, 2], d1)
        expected = model.matcher(*(torch.from_numpy(array)[None] for array in tensors))[0]
    assert counts == (1, 1) or expected.std() > 0.1
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_results_are_repeatable_and_not_overwritten(runtime: Runtime, gray: np.ndarray) -> None:
    image, other = gray[:64, :64].copy(), gray[64:128, 64:128].copy()
    first = runtime.extract(image)
    kept = [array.copy() for array in first]
    runtime.extract(other)
    again = runtime.extract(image)
    for result, copy, repeated in zip(first, kept, again, strict=True):
        np.testing.assert_array_equal(result, copy)
        np.testing.assert_array_equal(repeated, copy)
    inputs = matcher_inputs((20, 30))
    matched = runtime.match(*inputs)
    copy = matched.copy()
    runtime.match(*matcher_inputs((20, 30), 1))
    np.testing.assert_array_equal(matched, copy)
    np.testing.assert_array_equal(runtime.match(*inputs), copy)


def test_non_contiguous_inputs(runtime: Runtime, gray: np.ndarray) -> None:
    rotated = np.rot90(gray[:64, :96])
    expected = runtime.extract(np.ascontiguousarray(rotated))
    for actual, desired in zip(runtime.extract(rotated), expected, strict=True):
        np.testing.assert_array_equal(actual, desired)


def test_runtimes_are_thread_safe(runtime: Runtime, gray: np.ndarray) -> None:
    images = [np.ascontiguousarray(gray[i : i + 64, :128]) for i in range(0, 128, 16)]
    pairs = [matcher_inputs((20, 20 + i), i) for i in range(8)]
    expected = [
        (*runtime.extract(i), runtime.match(*p)) for i, p in zip(images, pairs, strict=True)
    ]
    failures: list[object] = []

    def work(start: int) -> None:
        try:
            for i in [(start + j) % 8 for j in range(8)] * 3:
                found = (*runtime.extract(images[i]), runtime.match(*pairs[i]))
                for actual, desired in zip(found, expected[i], strict=True):
                    np.testing.assert_allclose(actual, desired, atol=1e-5)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 3, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert failures == []


SIGNAL_AFTER_SESSIONS = """
import gc, os, pickle, signal, sys, threading
import numpy as np, featherglue as fg
NUMBERS = signal.SIGINT, signal.SIGTERM, signal.SIGALRM
for number in NUMBERS:
    signal.signal(number, lambda *_: print("handled", flush=True))
def raise_all():
    for number in NUMBERS:
        signal.raise_signal(number)
image = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
first, second = (fg.load(sys.argv[1], runtime=sys.argv[2], threads=1) for _ in range(2))
first.extract(image)
copy = pickle.loads(pickle.dumps(second))
copy.extract(image)
raise_all()  # during the use
thread = threading.Thread(target=copy.extract, args=(image,))
thread.start()
thread.join(timeout=60)
del first, second, copy
gc.collect()
raise_all()  # after it
child = os.fork()
if child == 0:
    raise_all()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
raise_all()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")
@pytest.mark.parametrize("name", INSTALLED)
def test_signals_are_handled_during_and_after_sessions(name: str, folders: dict[str, Path]) -> None:
    arguments = [sys.executable, "-c", SIGNAL_AFTER_SESSIONS, str(folders["one-head"]), name]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, 12 * "handled\n", "")


def test_float16_weights_agree_with_pytorch(
    artifact: Artifact, tmp_path: Path, gray: np.ndarray
) -> None:
    half = save_artifact(tmp_path / "half", artifact, "float16")
    results = [open_runtime(half, name, 1) for name in ("torch", "onnxruntime")]  # type: ignore[arg-type]
    scores = [result.extract(gray[:64, :64].copy())[0] for result in results]
    matrices = [result.match(*matcher_inputs((9, 14))) for result in results]
    np.testing.assert_allclose(*scores, atol=1e-4)
    np.testing.assert_allclose(*matrices, atol=1e-4)


def test_float16_weights_have_smaller_graphs(folders: dict[str, Path], tmp_path: Path) -> None:
    full = load_artifact(folders["one-head"])
    half = save_artifact(tmp_path / "half", full, "float16")
    sizes = [
        [path.stat().st_size for path in export_onnx(artifact, tmp_path / artifact.hash)]
        for artifact in (half, full)
    ]
    assert sizes[0][0] < 0.8 * sizes[1][0]
    assert sizes[0][1] < 0.8 * sizes[1][1]


# --- ONNX graphs -----------------------------------------------------------------------------


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEATHERGLUE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(folders: dict[str, Path], tmp_path: Path) -> Artifact:
    """A copy of an artifact that a test may change."""
    return load_artifact(shutil.copytree(folders["projected"], tmp_path / "own"))


def first_scores(artifact: Artifact, gray: np.ndarray, name: Any = "onnxruntime") -> np.ndarray:
    return open_runtime(artifact, name, 1).extract(gray[:64, :64].copy())[0]


@pytest.mark.parametrize("name", [n for n in INSTALLED if n not in ("torch", "native")])
def test_graphs_are_exported_once_into_the_cache(
    name: str, own: Artifact, cache: Path, gray: np.ndarray
) -> None:
    expected = first_scores(own, gray, name)
    files = sorted(path.name for path in cache.rglob("*.onnx"))
    assert files == ["extractor.onnx", "matcher.onnx"]
    assert not list(own.folder.glob("*.onnx"))  # type: ignore[union-attr]
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*.onnx")}
    np.testing.assert_array_equal(first_scores(own, gray, name), expected)
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.onnx")} == before


def test_cache_separates_models(
    own: Artifact, cache: Path, gray: np.ndarray, models: dict[str, Model], tmp_path: Path
) -> None:
    first = first_scores(own, gray)
    changed = dataclasses.replace(
        own,
        arrays=own.arrays
        | {
            "extractor.convPb.bias": own.arrays["extractor.convPb.bias"]
            + np.float32(np.arange(65) % 3)
        },
    )
    other = save_artifact(tmp_path / "other", changed)
    second = first_scores(other, gray)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(first_scores(own, gray), first)
    assert len(list(cache.iterdir())) == 2


def test_graphs_in_the_artifact_folder_are_used(
    own: Artifact, cache: Path, gray: np.ndarray
) -> None:
    assert own.folder is not None
    expected = first_scores(own, gray, "torch")
    paths = export_onnx(own, own.folder)
    assert [path.name for path in paths] == ["extractor.onnx", "matcher.onnx"]
    np.testing.assert_allclose(first_scores(own, gray), expected, atol=1e-4)
    assert not cache.exists()


def test_stale_graphs_are_not_used(own: Artifact, cache: Path, gray: np.ndarray) -> None:
    assert own.folder is not None
    stale = first_scores(own, gray)
    graphs = [path.read_bytes() for path in export_onnx(own, own.folder)]
    bias = own.arrays["extractor.convPb.bias"] + np.float32(np.arange(65) % 3)
    changed = dataclasses.replace(own, arrays=own.arrays | {"extractor.convPb.bias": bias})
    fresh = save_artifact(own.folder, changed)
    for name, data in zip(("extractor.onnx", "matcher.onnx"), graphs, strict=True):
        (own.folder / name).write_bytes(data)  # graphs of the previous weights
    found = first_scores(fresh, gray)
    assert np.abs(found - stale).max() > 1e-3
    np.testing.assert_allclose(found, first_scores(fresh, gray, "torch"), atol=1e-4)


def test_equal_weights_with_other_heads_have_other_graphs(
    own: Artifact, cache: Path, gray: np.ndarray
) -> None:
    def matched(artifact: Artifact) -> np.ndarray:
        runtime = open_runtime(artifact, "onnxruntime", 1)
        keypoints = np.linspace(-0.5, 0.5, 36, dtype=np.float32).reshape(12, 3)
        width = artifact.architecture.matcher.descriptor_dim  # type: ignore[union-attr]
        descriptors = np.random.default_rng(0).normal(size=(12, width)).astype(np.float32)
        return runtime.match(keypoints, descriptors, keypoints[::-1], descriptors[::-1])

    first = matched(own)
    config = own.architecture.matcher
    assert config is not None and own.folder is not None
    layers = tuple(
        dataclasses.replace(layer, heads=1, head_dim=layer.heads * layer.head_dim)
        for layer in config.layers
    )
    architecture = dataclasses.replace(
        own.architecture, matcher=dataclasses.replace(config, layers=layers)
    )
    other = save_artifact(own.folder, dataclasses.replace(own, architecture=architecture))
    assert other.hash == own.hash
    assert other.fingerprint != own.fingerprint
    assert np.abs(matched(other) - first).max() > 1e-3


@pytest.mark.parametrize("where", ["beside", "cache"])
@pytest.mark.parametrize("damage", ["empty", "half", "garbage"])
def test_damaged_graphs_are_exported_again(
    damage: str, where: str, own: Artifact, cache: Path, gray: np.ndarray
) -> None:
    assert own.folder is not None
    expected = first_scores(own, gray)
    folder = own.folder if where == "beside" else cache_folder(own)
    for path in export_onnx(own, folder):
        data = path.read_bytes()
        path.write_bytes(
            {"empty": b"", "half": data[: len(data) // 2], "garbage": b"x" * 99}[damage]
        )
    np.testing.assert_array_equal(first_scores(own, gray), expected)


def test_cache_without_write_permission(
    own: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FEATHERGLUE_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be written"):
        open_runtime(own, "onnxruntime", 1)


def test_exported_graphs_are_valid_and_reproducible(
    artifact: Artifact, tmp_path: Path, cache: Path
) -> None:
    first = [path.read_bytes() for path in export_onnx(artifact, tmp_path / "a")]
    second = [path.read_bytes() for path in export_onnx(artifact, tmp_path / "b")]
    assert first == second
    for data in first:
        graph = onnx.load_from_string(data)
        onnx.checker.check_model(graph, full_check=True)
        assert not any(node.op_type == "BatchNormalization" for node in graph.graph.node)


def test_unsaved_artifacts_cannot_be_exported(own: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be saved"):
        export_onnx(fold_batch_norm(own), tmp_path / "graphs")
    assert not (tmp_path / "graphs").exists()


def test_export_command(
    own: Artifact, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--model", str(own.folder)]) == 0
    assert capsys.readouterr().out.count("wrote") == 2
    assert (own.folder / "extractor.onnx").is_file()  # type: ignore[operator]
    assert (
        main(["export", "--model", str(own.folder), "-o", str(tmp_path / "out"), "--json", "-"])
        == 0
    )
    assert str(tmp_path / "out" / "matcher.onnx") in capsys.readouterr().out
    assert main(["export", "--model", str(tmp_path / "nowhere")]) == 1


def test_artifacts_with_one_network(models: dict[str, Model], tmp_path: Path, cache: Path) -> None:
    for part, rest in (("extractor", "matcher"), ("matcher", "extractor")):
        alone = dataclasses.replace(models["four-heads"], **{rest: None}).save(tmp_path / part)
        runtime = open_runtime(alone, "onnxruntime", 1)
        if part == "matcher":
            assert runtime.match(*matcher_inputs((3, 4))).shape == (3, 4)
        else:
            assert runtime.extract(np.zeros((16, 16), np.uint8))[0].shape == (16, 16)
        assert [path.name for path in cache_folder(alone).iterdir()] == [f"{part}.onnx"]


# --- errors ---------------------------------------------------------------------------------


def test_unknown_runtimes_and_invalid_threads_are_rejected(own: Artifact) -> None:
    with pytest.raises(UsageError, match="openvino, torch, sparse, not 'tensorrt'"):
        open_runtime(own, "tensorrt", None)  # type: ignore[arg-type]
    for threads in (0, -1):
        with pytest.raises(UsageError, match="threads must be in"):
            open_runtime(own, "auto", threads)


_IMPORTS_OPTIONAL = (
    "featherglue.runtime.torch_",
    "featherglue.runtime.openvino_",
    "featherglue.export.builder",
    "featherglue.export.extractor",
    "featherglue.export.matcher",
    "featherglue.export.networks",
    "featherglue.export.quantization",
)


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("torch", "torch", "featherglue\\[train\\]"),
        ("openvino", "openvino", "featherglue\\[openvino\\]"),
        ("onnxruntime", "onnx", "featherglue\\[export\\]"),
    ],
)
def test_missing_dependency_is_named(
    name: Any,
    module: str,
    message: str,
    own: Artifact,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for loaded in list(sys.modules):
        if loaded in _IMPORTS_OPTIONAL or loaded.startswith("featherglue.models"):
            monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RuntimeUnavailableError, match=message):
        open_runtime(own, name, 1)


@pytest.mark.parametrize("kernels", ["libkernels_x86_64_v3", "libkernels", None])
def test_auto_is_the_fastest_runtime(
    kernels: str | None, own: Artifact, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_, "library_name", lambda: kernels)
    monkeypatch.setattr(native_, "library", lambda: kernels)
    monkeypatch.setattr(native_, "missing_reason", lambda: "" if kernels else "not compiled")
    fastest = "native" if kernels == "libkernels_x86_64_v3" else "onnxruntime"
    assert open_runtime(own, "auto", None).name == fastest
    quantization = Quantization(activations={"extractor.conv1b": ActivationStorage(scale=1.0)})
    quantized = dataclasses.replace(own, quantization=quantization)
    if kernels is not None:
        with pytest.raises(RuntimeUnavailableError, match=r"quantized activations.*onnxruntime"):
            open_runtime(quantized, "native", 1)
    else:
        with pytest.raises(RuntimeUnavailableError, match="not compiled"):
            open_runtime(own, "native", 1)


def test_runtimes_have_their_names(own: Artifact, cache: Path) -> None:
    for name in INSTALLED:
        assert open_runtime(own, name, 1).name == name  # type: ignore[arg-type]

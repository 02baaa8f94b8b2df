"""The networks in C: threads and memory. `tests/runtime` compares their results with PyTorch."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.config import (
    ArchitectureConfig,
    AttentionConfig,
    SuperGlueConfig,
    SuperPointConfig,
)
from featherglue.errors import ResourceError
from featherglue.matching.assignment import match_scores, mutual_matches, optimal_transport
from featherglue.models.model import Model
from featherglue.native import kernels, network_kernels
from featherglue.native.library import library_name
from featherglue.runtime import native_
from featherglue.runtime.native_ import NativeRuntime
from featherglue.runtime.torch_ import TorchRuntime

pytestmark = pytest.mark.skipif(library_name() is None, reason="the kernels are not compiled")


@pytest.fixture(scope="module")
def runtimes(folders: dict[str, Path]) -> list[NativeRuntime]:
    artifact = load_artifact(folders["four-heads"])
    return [NativeRuntime(artifact, threads) for threads in (1, 2, 5)]


def results(runtime: NativeRuntime, gray: np.ndarray, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Outputs of both networks for images and numbers of keypoints that depend on the seed."""
    rng = np.random.default_rng(seed)
    maps = runtime.extract(gray[: 64 + 8 * seed, : 200 - 8 * seed])
    sets = [
        (rng.random((count, 3), np.float32), rng.normal(size=(count, 16)).astype(np.float32))
        for count in (30 + 50 * seed, 70)
    ]
    return (*maps, runtime.match(*sets[0], *sets[1]))


def test_results_do_not_depend_on_threads(runtimes: list[NativeRuntime], gray: np.ndarray) -> None:
    for seed in (0, 3, 1):
        expected, *others = (results(runtime, gray, seed) for runtime in runtimes)
        for other in others:
            for actual, desired in zip(other, expected, strict=True):
                np.testing.assert_array_equal(actual, desired)


def test_calls_of_several_threads_at_once(runtimes: list[NativeRuntime], gray: np.ndarray) -> None:
    expected = [results(runtimes[0], gray, seed) for seed in range(4)]
    jobs = [(runtimes[1 + number % 2], number % 4) for number in range(24)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda job: results(job[0], gray, job[1]), jobs))
    for (_, seed), result in zip(jobs, found, strict=True):
        for actual, desired in zip(result, expected[seed], strict=True):
            np.testing.assert_array_equal(actual, desired)


@pytest.mark.parametrize("width", [8, 24])
def test_unprojected_descriptors_whose_width_is_no_multiple_of_16(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERGLUE_BF16", "0")
    layer = AttentionConfig(kind="cross", heads=1, head_dim=8, hidden=12)
    matcher = SuperGlueConfig(
        descriptor_dim=width, width=width, keypoint_encoder=(8,), layers=(layer,), batch_norm=False
    )
    torch.manual_seed(0)
    artifact = Model.build(ArchitectureConfig(matcher=matcher)).save(tmp_path / "model")
    rng = np.random.default_rng(0)
    points = [rng.random((count, 3), np.float32) for count in (30, 7)]
    described = [rng.normal(size=(len(each), width)).astype(np.float32) for each in points]
    inputs = (points[0], described[0], points[1], described[1])
    found, expected = (kind(artifact, 1).match(*inputs) for kind in (NativeRuntime, TorchRuntime))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_context_branch_of_three_levels(tmp_path: Path, gray: np.ndarray) -> None:
    extractor = SuperPointConfig(
        channels=(8, 8, 8, 8, 16, 16, 24, 24),
        stem=2,
        detector_channels=16,
        descriptor_channels=40,
        descriptor_dim=24,
        context_channels=(8, 40, 24, 16, 8, 16),
        batch_norm=False,
    )
    torch.manual_seed(0)
    artifact = Model.build(ArchitectureConfig(extractor=extractor)).save(tmp_path / "model")
    expected = TorchRuntime(artifact, 1).extract(gray[:200, :104])
    for threads in (1, 3):
        found = NativeRuntime(artifact, threads).extract(gray[:200, :104])
        for actual, desired in zip(found, expected, strict=True):
            np.testing.assert_allclose(actual, desired, atol=1e-5)


@pytest.mark.parametrize("counts", [(0, 5), (5, 0), (0, 0)])
def test_no_keypoints_give_an_empty_matrix(
    counts: tuple[int, int], runtimes: list[NativeRuntime]
) -> None:
    sets = [(np.zeros((n, 3), np.float32), np.zeros((n, 16), np.float32)) for n in counts]
    for runtime in runtimes:
        assert runtime.match(*sets[0], *sets[1]).shape == counts


def _answer(runtime: NativeRuntime, gray: np.ndarray, sender: Any) -> None:
    sender.send(results(runtime, gray)[2])


def test_a_forked_process_starts_its_own_threads(
    runtimes: list[NativeRuntime], gray: np.ndarray
) -> None:
    expected = results(runtimes[2], gray)[2]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(runtimes[2], gray, sender))
    child.start()
    assert receiver.poll(20)
    np.testing.assert_array_equal(receiver.recv(), expected)
    child.join(20)
    assert child.exitcode == 0


def _count_threads(runtime: NativeRuntime, gray: np.ndarray, sender: Any) -> None:
    def repeat(_: int) -> None:
        for _ in range(300):
            runtime.extract(gray[:16, :16])

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(repeat, range(3)))
        sender.send(len(list(Path("/proc/self/task").iterdir())))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_no_more_threads_are_started_than_wanted(
    runtimes: list[NativeRuntime], gray: np.ndarray
) -> None:
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_count_threads, args=(runtimes[2], gray, sender))
    child.start()
    assert receiver.poll(60)
    callers, helpers = 3, 4
    assert receiver.recv() <= 1 + callers + callers * helpers
    child.join(20)
    assert child.exitcode == 0


@pytest.mark.parametrize("network", ["extract", "match"])
def test_out_of_memory(
    network: str, runtimes: list[NativeRuntime], gray: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("Unable to allocate 9.00 TiB")

    monkeypatch.setattr(native_, f"{network}_network", fail)
    with pytest.raises(ResourceError, match=r"not enough memory.*9\.00 TiB.*reduce `"):
        results(runtimes[0], gray)


def test_memory_of_huge_images_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_kernels, "_MOST_KEPT", 100)
    memory = network_kernels.Memory()
    small = memory.take(80)
    assert memory.take(60) is small
    assert len(memory.take(101)) == 101
    assert memory.take(80) is small


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`match_scores` in NumPy."""

    def run(*arguments: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "library", lambda: None)
            return match_scores(*arguments)

    return run


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (33, 1), (7, 64), (129, 63), (900, 700)])
@pytest.mark.parametrize("iterations", [0, 20])
def test_matches_of_scores(
    shape: tuple[int, int], iterations: int, plain: Callable[..., Any]
) -> None:
    rng = np.random.default_rng(0)
    scores = (2 * rng.normal(size=shape)).astype(np.float32)
    count = min(shape)
    scores[rng.permutation(shape[0])[:count], rng.permutation(shape[1])[:count]] += 8
    pairs, probabilities = match_scores(scores, 1.0, iterations, 0.1)
    expected = plain(scores, 1.0, iterations, 0.1)
    assert len(pairs) > 0
    np.testing.assert_array_equal(pairs, expected[0])
    np.testing.assert_allclose(probabilities, expected[1], rtol=2e-5)
    again = match_scores(scores, 1.0, iterations, 0.1, 3)
    np.testing.assert_array_equal(again[0], pairs)
    np.testing.assert_array_equal(again[1], probabilities)


def test_equal_scores_match_once(plain: Callable[..., Any]) -> None:
    scores = np.full((3, 4), 5.0, np.float32)
    pairs, _ = match_scores(scores, 0.0, 20, 0.0)
    np.testing.assert_array_equal(pairs, plain(scores, 0.0, 20, 0.0)[0])
    np.testing.assert_array_equal(pairs, [[0, 0]])


def test_scores_that_need_rescaling(plain: Callable[..., Any]) -> None:
    scores = np.where(np.eye(40) > 0, 200.0, -200.0).astype(np.float32)
    pairs, probabilities = match_scores(scores, -150.0, 20, 0.2)
    expected = mutual_matches(optimal_transport(scores, -150.0, 20), 0.2)
    np.testing.assert_array_equal(pairs, expected[0])
    np.testing.assert_array_equal(pairs[:, 0], np.arange(40))
    np.testing.assert_allclose(probabilities, expected[1], rtol=1e-5)

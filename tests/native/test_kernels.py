"""The compiled kernels give the results of NumPy, for usual and for unusual input."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherglue.geometry import local_optimization
from featherglue.geometry.epipolar import sampson_distances
from featherglue.geometry.local_optimization import optimize_fundamental
from featherglue.matching.assignment import mutual_matches, nearest_neighbors, optimal_transport
from featherglue.matching.consensus import filter_by_consensus, fit_local_maps
from featherglue.matching.keypoints import find_keypoints, sample_descriptors
from featherglue.matching.subpixel import refine_matches
from featherglue.native import kernels
from featherglue.native.library import library_name
from featherglue.options import ProcessingConfig

Array = np.ndarray
Both = Callable[[Callable[[], Any]], tuple[Any, Any]]

pytestmark = pytest.mark.skipif(library_name() is None, reason="the kernels are not compiled")


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch) -> Both:
    """Runs a function with the compiled kernels and in NumPy."""

    def run(function: Callable[[], Any]) -> tuple[Any, Any]:
        compiled = function()
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "library", lambda: None)
            return compiled, function()

    return run


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (33, 1), (7, 64), (65, 12), (300, 511)])
def test_assignment(both: Both, shape: tuple[int, int]) -> None:
    scores = (3 * np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    compiled, plain = both(lambda: optimal_transport(scores, 1.0, 20))
    np.testing.assert_allclose(compiled, plain, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(*both(lambda: optimal_transport(scores, 1.0, 0)), rtol=2e-5)
    compiled, plain = both(lambda: mutual_matches(plain, 0.01))
    np.testing.assert_array_equal(compiled[0], plain[0])
    np.testing.assert_array_equal(compiled[1], plain[1])
    assert compiled[0].dtype == np.int64


def test_rows_of_a_larger_matrix(both: Both) -> None:
    scores = np.random.default_rng(0).normal(size=(20, 40)).astype(np.float32)
    for part in (scores[:10, :15], scores[::2, 3:9], scores.T[:5, :6]):
        compiled, plain = both(lambda part=part: optimal_transport(part, 0.5, 5))
        np.testing.assert_allclose(compiled, plain, rtol=2e-5)


def test_strong_scores_are_rescaled(both: Both) -> None:
    scores = np.where(np.eye(40, dtype=bool), np.float32(300), np.float32(-300))
    compiled, plain = both(lambda: optimal_transport(scores, 1.0, 20))
    np.testing.assert_allclose(compiled, plain, atol=1e-6)
    assert len(mutual_matches(compiled, 0.5)[0]) == 40
    scores[:, 0] = 400  # the other columns vanish in float32
    assert kernels.optimal_transport(scores, 1.0, 20, 1e-12) is None
    np.testing.assert_array_equal(*both(lambda: optimal_transport(scores, 1.0, 20)))


def test_equal_values_match_once(both: Both) -> None:
    equal = np.full((5, 7), 0.25, np.float32)
    compiled, plain = both(lambda: mutual_matches(np.pad(equal, ((0, 1), (0, 1))), 0.2))
    np.testing.assert_array_equal(compiled[0], plain[0])
    assert compiled[0].tolist() == [[0, 0]]


@pytest.mark.parametrize("shape", [(1, 1), (5, 17), (97, 32), (200, 101)])
@pytest.mark.parametrize("width", [3, 64])
def test_nearest_descriptors(both: Both, shape: tuple[int, int], width: int) -> None:
    rng = np.random.default_rng(1)
    first, second = (rng.normal(size=(count, width)).astype(np.float32) for count in shape)
    common = min(*shape, 20)
    second[:common] = first[:common] + 0.1 * second[:common]
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    second /= np.linalg.norm(second, axis=1, keepdims=True)
    for cosine in (-1.0, 0.8):
        compiled, plain = both(lambda cosine=cosine: nearest_neighbors(first, second, None, cosine))
        np.testing.assert_array_equal(compiled[0], plain[0])
        np.testing.assert_allclose(compiled[1], plain[1], atol=1e-6)
        assert compiled[0].dtype == np.int64


@pytest.mark.parametrize("shape", [(5, 17), (97, 32), (200, 101)])
def test_the_first_of_equal_descriptors_counts(both: Both, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    # Products of these values have no rounding error, so those of equal descriptors are equal.
    first, second = (np.float32(rng.integers(-8, 9, (count, 64)) / 64) for count in shape)
    common = min(*shape, 20)
    second[:common] = first[:common]
    second[-1], first[-1] = second[0], first[0]
    compiled, plain = both(lambda: nearest_neighbors(first, second))
    np.testing.assert_array_equal(compiled[0], plain[0])
    assert [0, 0] in compiled[0].tolist()
    assert shape[1] - 1 not in compiled[0][:, 1]


def test_opposite_descriptors_have_a_nearest_one() -> None:
    first = np.array([[1, 0], [0, 1]], np.float32)
    indices, scores = nearest_neighbors(first, -(first[:1] + first[1:]) / 2)
    assert indices.tolist() == [[0, 0]] and scores.tolist() == [0]


def score_map(kind: str) -> Array:
    rng = np.random.default_rng(3)
    scores = rng.random((96, 160), np.float32)
    if kind == "smooth":
        kernel = np.ones((7, 7)) / 49
        scores = np.real(np.fft.ifft2(np.fft.fft2(scores) * np.fft.fft2(kernel, scores.shape)))
    elif kind == "ties":
        scores = np.round(scores * 8) / 8
    elif kind == "equal":
        scores[:] = 0.5
    elif kind == "blank":
        scores[:] = 0
    elif kind == "border":
        scores[:] = 0
        scores[0, :], scores[-1, :], scores[:, 0], scores[:, -1] = 0.5, 0.6, 0.7, 0.8
    return np.ascontiguousarray(scores, np.float32)


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 6, 9])
@pytest.mark.parametrize("kind", ["random", "smooth", "ties", "equal", "blank", "border"])
def test_keypoints(both: Both, kind: str, radius: int) -> None:
    scores = score_map(kind)
    for limit in (-1, 20):
        processing = ProcessingConfig(
            nms_radius=radius, keypoint_threshold=0.3, max_keypoints=limit, remove_borders=0
        )
        compiled, plain = both(lambda p=processing: find_keypoints(scores, (160, 90), p))
        np.testing.assert_array_equal(compiled, plain)


def test_many_maxima(both: Both) -> None:
    """More than the first buffers hold."""
    scores = np.zeros((256, 512), np.float32)
    scores[::2, ::2] = 1
    processing = ProcessingConfig(nms_radius=1, keypoint_threshold=0.3, max_keypoints=-1)
    compiled, plain = both(lambda: find_keypoints(scores, (512, 256), processing))
    np.testing.assert_array_equal(compiled, plain)
    assert len(compiled[0]) > 30_000


@pytest.mark.parametrize("shape", [(12, 20, 64), (1, 1, 8), (1, 5, 3), (5, 1, 17)])
@pytest.mark.parametrize("sampling", ["exact", "published"])
def test_descriptors(both: Both, shape: tuple[int, int, int], sampling: Any) -> None:
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=shape).astype(np.float32)
    size = np.array([8 * shape[1] - 1, 8 * shape[0] - 1])
    keypoints = (rng.random((50, 2)) * size).astype(np.float32)
    keypoints[:2] = (0, 0), size
    compiled, plain = both(lambda: sample_descriptors(descriptors, keypoints, sampling))
    np.testing.assert_allclose(compiled, plain, atol=2e-6)


def matches(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Matches under a smooth map, a tenth of them wrong."""
    rng = np.random.default_rng(seed)
    points0 = (rng.random((count, 2)) * (640, 480)).astype(np.float32)
    points1 = points0 @ np.float32([[0.9, 0.2], [-0.2, 0.9]]) + np.float32(3e-4) * points0**2
    points1[::10] += rng.normal(size=points1[::10].shape) * 60
    return points0, points1.astype(np.float32), rng.random(count, np.float32)


@pytest.mark.parametrize("count", [14, 50, 403])
def test_consensus(both: Both, count: int) -> None:
    points0, points1, scores = matches(count)
    compiled, plain = both(lambda: filter_by_consensus(points0, points1, scores, 0.95))
    np.testing.assert_array_equal(compiled[0], plain[0])
    if plain[1] is not None:
        np.testing.assert_allclose(compiled[1].affine, plain[1].affine, atol=1e-3)
        np.testing.assert_allclose(compiled[1].offsets, plain[1].offsets, atol=1e-2)
        np.testing.assert_allclose(compiled[1].distance, plain[1].distance, rtol=1e-3)


@pytest.mark.parametrize("kind", ["line", "coincident", "few places"])
def test_neighbors_of_unusual_points(both: Both, kind: str) -> None:
    points0, points1, _ = matches(60)
    if kind == "line":
        points0[:, 0] = 5
    elif kind == "coincident":
        points0[:] = 7
    else:
        points0 = np.round(points0 / 160) * 160
    compiled, plain = both(lambda: fit_local_maps(points0, points1))
    assert np.isfinite(compiled.affine).all()
    if kind == "line":
        np.testing.assert_allclose(compiled.offsets, plain.offsets, atol=0.1)
    compiled = kernels.nearest_points(points0, 10)
    assert compiled is not None
    distances = np.linalg.norm(points0[:, None] - points0, axis=2)
    np.fill_diagonal(distances, np.inf)
    np.testing.assert_allclose(np.sqrt(compiled[1].T), np.sort(distances)[:, :10], atol=1e-3)
    assert (compiled[0] != np.arange(len(points0))).all()


def test_refinement(both: Both, gray: Array) -> None:
    rng = np.random.default_rng(1)
    image1 = np.roll(gray, (5, -7), (0, 1))
    inner = np.array([gray.shape[1] - 60, gray.shape[0] - 60])
    points0 = (30 + rng.random((200, 2)) * inner).astype(np.float32)
    points0[:3] = (0.3, 0.2), (gray.shape[1] - 1, 4), (9, gray.shape[0] - 1)  # at the border
    points1 = points0 + np.float32([-7, 5]) + rng.normal(size=points0.shape).astype(np.float32)
    compiled, plain = both(lambda: refine_matches(gray, image1, points0, points1))
    assert (compiled[1] == plain[1]).mean() > 0.95
    # NumPy samples with OpenCV, which rounds gray values and positions.
    errors = [
        np.median(np.linalg.norm(points - points0 - (-7, 5), axis=1)[mask])
        for points, mask in (compiled, plain)
    ]
    assert errors[0] < min(0.1, errors[1] + 0.01)


def in_new_process(**environment: str) -> tuple[str, str, str]:
    """Name of the loaded library, why there is none, and warnings."""
    code = (
        "from featherglue.native.library import library_name, missing_reason\n"
        "print(library_name(), missing_reason(), library_name(), sep='|')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    name, reason, again = done.stdout.strip().split("|")
    assert name == again
    return name, reason, done.stderr


def test_the_kernels_can_be_switched_off() -> None:
    name, reason, warned = in_new_process(FEATHERGLUE_NATIVE="0")
    assert (name, warned) == ("None", "")
    assert reason == "switched off by FEATHERGLUE_NATIVE=0"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of `featherglue.native`, which `in_new_process` loads."""
    folder = Path(kernels.__file__).parent
    shutil.copytree(folder, tmp_path / "featherglue" / "native")
    (tmp_path / "featherglue" / "__init__.py").write_text("")
    shutil.copy(folder.parent / "errors.py", tmp_path / "featherglue")
    return tmp_path / "featherglue" / "native"


def test_libraries_of_other_sources_are_ignored(package: Path) -> None:
    path = str(package.parents[1])
    assert in_new_process(PYTHONPATH=path) == (library_name(), "", "")
    with (package / "kernels.h").open("a") as file:
        file.write("/* changed */\n")
    name, reason, warned = in_new_process(PYTHONPATH=path)
    assert name == "None"
    assert "older than their sources" in reason
    assert warned.count("KernelsWarning") == 1
    assert "pip install ." in warned


def test_libraries_of_another_machine_are_ignored(package: Path) -> None:
    for library in package.glob("*.so"):
        library.write_bytes(b"\x7fELF" + bytes(60))
    name, reason, warned = in_new_process(PYTHONPATH=str(package.parents[1]))
    assert name == "None"
    assert "made for another machine" in reason
    assert warned.count("KernelsWarning") == 1


def test_missing_libraries_give_no_warning(package: Path) -> None:
    for library in package.glob("*.so"):
        library.unlink()
    name, reason, warned = in_new_process(PYTHONPATH=str(package.parents[1]))
    assert (name, warned) == ("None", "")
    assert reason == "not compiled; install featherglue again with a C compiler"


def disturbed_views(count: int, seed: int = 0) -> tuple[Array, Array, Array]:
    """Noisy matches of a scene with depth, some of them wrong, and a rough fundamental matrix."""
    rng = np.random.default_rng(seed)
    rays0 = rng.uniform(-0.5, 0.5, (count, 2))
    depth = rng.uniform(2, 5, (count, 1))
    turn = np.array([[0.98, 0, 0.2], [0, 1, 0], [-0.2, 0, 0.98]])
    t = np.array([0.8, 0.1, 0.2])
    seen = np.c_[rays0, np.ones(count)] * depth @ turn.T + t
    points0 = 500 * rays0 + (320, 240)
    points1 = 500 * seen[:, :2] / seen[:, 2:] + (320, 240) + rng.normal(0, 0.3, (count, 2))
    points1[: count // 5] += rng.normal(0, 40, (count // 5, 2))
    K = np.linalg.inv(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]))
    t += 0.01
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    F = K.T @ cross @ turn @ K
    return points0, points1, F / np.linalg.norm(F)


@pytest.mark.parametrize("count", [15, 40, 300])
def test_fundamental_matrices(both: Both, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points0, points1, F = disturbed_views(count)
    compiled, plain = both(lambda: optimize_fundamental(F, points0, points1, 3.0))
    np.testing.assert_allclose(compiled, plain, atol=1e-10)
    distances = [sampson_distances(one, points0, points1) for one in (compiled, plain, F)]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)
    assert np.median(distances[0]) < 0.8 * np.median(distances[2])
    monkeypatch.setattr(local_optimization, "_gauss_newton", None)  # the kernel does the work
    np.testing.assert_array_equal(optimize_fundamental(F, points0, points1, 3.0), compiled)


def test_fundamental_matrices_that_cannot_be_improved(both: Both) -> None:
    points0, points1, F = disturbed_views(300)
    for few in (0, 1, 11):
        compiled, plain = both(
            lambda few=few: optimize_fundamental(F, points0[:few], points1[:few], 3.0)
        )
        assert compiled is F and plain is F
    far = points1 + 1000  # no match within the threshold
    assert all(found is F for found in both(lambda: optimize_fundamental(F, points0, far, 3.0)))


def test_degenerate_matches_are_left_to_numpy(both: Both) -> None:
    points0, points1, F = disturbed_views(300)
    same = np.repeat(points0[:1], 30, axis=0), np.repeat(points1[:1], 30, axis=0)
    for pair in (same, (points0, points0)):
        compiled, plain = both(lambda pair=pair: optimize_fundamental(F, *pair, 1e4))
        assert np.isfinite(compiled).all()
        np.testing.assert_array_equal(compiled, plain)
    model = np.append(np.eye(3).reshape(-1), [*np.eye(3).reshape(-1), 0.5])
    settings = 0.01, 2.4, 12, 10, 1e-6
    assert kernels.optimize_fundamental(*same, model, 1e9, *settings) is None

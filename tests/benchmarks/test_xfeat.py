"""benchmarks/xfeat.py: sampling, keypoints and matches, with a fake network."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

SPOTS = ((10, 10, 3), (40, 20, 8), (70, 50, 63))  # column and row of a cell, pixel in it
BORDER = (5, 79, 0)  # below an image that is wider than high


class FakeNetwork:
    """Finds SPOTS and BORDER in every image."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image")]

    def run(self, _: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert inputs["image"].shape == (1, 1, 640, 640)
        descriptors = np.random.default_rng(0).normal(size=(80, 80, 64)).astype(np.float32)
        logits = np.zeros((80, 80, 65), np.float32)
        logits[..., 64] = 20  # no keypoint
        for strength, (column, row, pixel) in enumerate((*SPOTS, BORDER), 21):
            logits[row, column, pixel] = strength
        return [descriptors, logits, np.ones((1, 1, 80, 80), np.float32)]


@pytest.fixture
def script(load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = load_script("xfeat")
    monkeypatch.setattr(module.onnxruntime, "InferenceSession", FakeNetwork)
    return module


def test_keypoints_and_matches(script: ModuleType, gray: np.ndarray) -> None:
    image = gray[:240, :320]  # fits 640×640 at twice its size
    features = script.XFeat("unused.onnx").extract(image)
    expected = [(8 * x + p % 8, 8 * y + p // 8) for x, y, p in reversed(SPOTS)]
    expected = [((x + 0.5) / 2 - 0.5, (y + 0.5) / 2 - 0.5) for x, y in expected]
    np.testing.assert_allclose(features.keypoints, expected, atol=1e-4)
    assert (np.diff(features.scores) < 0).all() and features.scores[0] <= 1
    np.testing.assert_allclose(np.linalg.norm(features.descriptors, axis=1), 1, rtol=1e-5)
    matched = script.XFeat("unused.onnx", refine=True).match(features, features).matches
    assert matched.indices.tolist() == [[0, 0], [1, 1], [2, 2]]
    np.testing.assert_allclose(matched.points1, features.keypoints, atol=0.05)
    assert len(script.XFeat("unused.onnx", max_keypoints=2).extract(image)) == 2


@pytest.mark.parametrize("cubic", [False, True])
def test_samples_are_those_of_grid_sample(script: ModuleType, cubic: bool) -> None:
    """XFeat samples with PyTorch's function; points at the border need the zeros outside."""
    rng = np.random.default_rng(0)
    grid = rng.normal(size=(80, 80, 3)).astype(np.float32)
    points = np.r_[rng.uniform(0, 639, (40, 2)), [(0, 0), (639, 639), (2, 637)]]
    points = points.astype(np.float32)
    expected = F.grid_sample(
        torch.from_numpy(grid).permute(2, 0, 1)[None],
        torch.from_numpy(2 * points / 639 - 1)[None, None],
        mode="bicubic" if cubic else "bilinear",
        align_corners=False,
    )[0, :, 0].T.numpy()
    sampled = script._sample(grid, points, cubic=cubic, unit=False)
    np.testing.assert_allclose(sampled, expected, atol=1e-3)
    lengths = np.linalg.norm(script._sample(grid, points, cubic=cubic), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-5)


@pytest.mark.parametrize("cubic", [False, True])
def test_kernels_interpolate(script: ModuleType, cubic: bool) -> None:
    assert script._kernel(np.arange(-3.0, 4), cubic).tolist() == [0, 0, 0, 1, 0, 0, 0]
    offsets = np.arange(-2, 3) + 0.3
    assert script._kernel(offsets, cubic).sum() == pytest.approx(1)

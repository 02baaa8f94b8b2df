"""Batched geometry against single matrices and points."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from batched_cases import SIZE, draws

from featherglue.data.homography import HomographyRange
from featherglue.data.scene_view_pairs import is_resolved
from featherglue.train.batched.geometry import homographies, inverse, rotation
from featherglue.train.batched.planes import are_resolved, project


def test_inverse_and_rotation_equal_opencv() -> None:
    matrices = torch.randn(20, 3, 3)
    assert torch.allclose(inverse(matrices) @ matrices, torch.eye(3).expand(20, 3, 3), atol=1e-3)
    vectors = torch.randn(20, 3)
    for vector, found in zip(vectors, rotation(vectors), strict=True):
        assert np.allclose(cv2.Rodrigues(vector.double().numpy())[0], found.numpy(), atol=1e-5)


def test_homographies_stay_in_their_range() -> None:
    still = HomographyRange(rotation=0, scale=1, anisotropy=1, perspective=0, translation=0)
    H = homographies(draws(), SIZE, still, 7)
    assert torch.allclose(H / H[:, 2:, 2:], torch.eye(3).expand(7, 3, 3), atol=1e-5)
    scaled = HomographyRange(rotation=30, scale=2, anisotropy=1, perspective=0, translation=0.1)
    H = homographies(draws(), SIZE, scaled, 500)
    scale = torch.linalg.det(H[:, :2, :2]).sqrt()
    angle = torch.atan2(H[:, 1, 0], H[:, 0, 0]).rad2deg()
    assert 0.5 <= scale.min() < 0.55 and 1.9 < scale.max() <= 2.0001
    assert 28 < angle.abs().max() <= 30.001
    center = torch.tensor([(SIZE[0] - 1) / 2, (SIZE[1] - 1) / 2])
    moved = (project(center.expand(500, 1, 2), H)[:, 0] - center).abs() / torch.tensor(SIZE)
    assert 0.09 < moved.max() <= 0.1001


def test_resolved_points_equal_single_points() -> None:
    rng = np.random.default_rng(4)
    points = rng.uniform(0, 100, (300, 2)).astype(np.float32)
    H = np.array([[0.4, 0.1, 3], [-0.2, 0.9, 5], [0.002, 0.004, 1.0]])
    found = are_resolved(torch.from_numpy(points), torch.from_numpy(H).float())
    expected = is_resolved(points, H)
    assert 0 < expected.sum() < 300
    assert (found.numpy() == expected).mean() > 0.99

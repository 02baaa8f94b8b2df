"""Rotated cameras and their images."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_cases import K, pose
from scenes import pair_line

from featherglue.evaluation.pair_lists import (
    read_pose_pairs,
)
from featherglue.evaluation.views import pose_views, rotate_camera


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_rotated_camera_sees_the_rotated_image(times: int) -> None:
    skewed = K.copy()
    skewed[0, 1] = 4.0
    image = np.zeros((240, 320), np.uint8)
    point = np.array([0.4, -0.3, 2.0])
    x, y = (skewed @ point / point[2])[:2]
    image[round(y), round(x)] = 255
    turned, K_turned, turn = rotate_camera(image, skewed, times)
    assert np.array_equal(turned, np.rot90(image, times))
    place = K_turned @ turn[:3, :3] @ point
    seen = np.argwhere(turned == 255)[0][::-1]
    assert np.abs(place[:2] / place[2] - seen).max() <= 0.5
    assert np.allclose(turn @ turn.T, np.eye(4))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_rotated_intrinsics_equal_superglues(times: int) -> None:
    """`rotate_intrinsics`, with w − 1 for w: our pixel centers have integer coordinates."""
    (fx, _, cx), (_, fy, cy) = K[0], K[1]
    w, h = 319, 239
    expected = {
        1: [[fy, 0, cy], [0, fx, w - cx], [0, 0, 1]],
        2: [[fx, 0, w - cx], [0, fy, h - cy], [0, 0, 1]],
        3: [[fy, 0, h - cy], [0, fx, cx], [0, 0, 1]],
    }[times]
    _, found, turn = rotate_camera(np.zeros((240, 320), np.uint8), K, times)
    assert np.allclose(found, expected)
    angle = np.deg2rad((0, 270, 180, 90)[times])
    c, s = np.cos(angle), np.sin(angle)
    assert np.allclose(turn[:3, :3], [[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_rotated_pairs_agree_with_their_pose(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((240, 320), np.uint8))
    T = pose((1.0, 0.1, 0.2))
    (tmp_path / "pairs.txt").write_text(pair_line("a.png", "b.png", K, T, (1, 3)))
    (task,) = read_pose_pairs(tmp_path, tmp_path / "pairs.txt")
    views = pose_views(task)
    assert views.image0.shape == views.image1.shape == (320, 240)
    point = np.array([0.2, 0.3, 5.0])
    first = np.linalg.inv(K) @ K @ point  # camera 0 as the list has it
    _, _, turn0 = rotate_camera(np.zeros((240, 320), np.uint8), K, 1)
    _, K1, turn1 = rotate_camera(np.zeros((240, 320), np.uint8), K, 3)
    second = turn1[:3, :3] @ (T[:3, :3] @ first + T[:3, 3])
    moved = views.T_0to1 @ np.r_[turn0[:3, :3] @ first, 1]
    assert np.allclose(moved[:3], second)
    assert np.allclose(views.K1, K1)

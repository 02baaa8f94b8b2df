"""Suite of relative poses: exact, planar, wrong and failed poses."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_cases import SIFT, K, pose
from scenes import Array, pair_line, texture

from featherglue.evaluation import (
    PoseSuite,
    evaluate,
)
from featherglue.evaluation.views import PoseViews
from featherglue.types import Features, Matches, MatchResult


def seen_points(
    T: Array, plane: tuple[float, float] | None = None, noise: float = 0
) -> tuple[Array, Array]:
    """Pixels in both cameras of 3-D points, on a plane with these slopes if any."""
    rng = np.random.default_rng(9)
    points = rng.uniform((-1.5, -1.2, 4), (1.5, 1.2, 8), (120, 3))
    if plane is not None:
        points[:, 2] = 6 + points[:, :2] @ plane
    moved = points @ T[:3, :3].T + T[:3, 3]
    pixels = [p @ K.T for p in (points, moved)]
    first, second = (p[:, :2] / p[:, 2:] for p in pixels)
    return first, second + rng.normal(0, noise, second.shape) if noise else second


def measure(points0: Array, points1: Array, T: Array) -> tuple[dict[str, float], str]:
    blank = np.zeros((240, 320), np.uint8)
    count = len(points0)
    features = [
        Features(
            keypoints=points.astype(np.float32),
            scores=np.ones(count, np.float32),
            descriptors=np.ones((count, 1), np.float32),
            image_size=(320, 240),
        )
        for points in (points0, points1)
    ]
    matches = Matches(
        indices=np.stack((np.arange(count), np.arange(count)), 1),
        scores=np.ones(count, np.float32),
        points0=features[0].keypoints,
        points1=features[1].keypoints,
        refined=np.zeros(count, np.bool_),
    )
    suite = PoseSuite(folder="", pair_file="")
    views = PoseViews(image0=blank, image1=blank, K0=K, K1=K, T_0to1=T)
    matched = MatchResult(features0=features[0], features1=features[1], matches=matches)
    return suite.measure(views, matched)


@pytest.mark.parametrize("t", [(1.0, 0.1, 0.2), (0.1, 0.0, 0.8)])
def test_exact_poses(t: tuple[float, float, float]) -> None:
    numbers, failure = measure(*seen_points(pose(t)), pose(t))
    assert not failure
    assert numbers["error"] < 0.2
    assert numbers["error_lo"] < 0.02
    assert numbers["error"] == max(numbers["rotation_error"], numbers["translation_error"])
    assert numbers["precision"] == numbers["matching_score"] == 1


def test_exact_poses_of_a_plane() -> None:
    """A plane has two poses unless the camera moves along its normal: then it is the true one."""
    plane = (0.4, -0.2)
    normal = np.array([-plane[0], -plane[1], 1.0])
    T = pose((0, 0, 0))
    T[:3, 3] = T[:3, :3] @ normal
    numbers, failure = measure(*seen_points(T, plane), T)
    assert not failure and numbers["error"] < 0.2 and numbers["precision"] == 1
    T = pose((1.0, 0.1, 0.2))
    numbers, failure = measure(*seen_points(T, plane), T)
    assert not failure and numbers["precision"] == 1


def test_a_pure_rotation_is_judged_by_its_rotation() -> None:
    T = pose((0.0, 0.0, 0.0))
    numbers, failure = measure(*seen_points(T, noise=0.2), T)
    assert not failure
    assert numbers["rotation_error"] == numbers["error"] < 1
    assert numbers["precision"] == 1


def test_a_wrong_pose_is_wrong() -> None:
    T, other = pose((1.0, 0.1, 0.2)), pose((0.0, 1.0, 0.0))
    numbers, _ = measure(*seen_points(T), other)
    assert numbers["rotation_error"] < 0.2
    angle = np.rad2deg(np.arccos(np.array([1.0, 0.1, 0.2]) @ (0, 1, 0) / np.sqrt(1.05)))
    assert numbers["error"] == numbers["translation_error"] == pytest.approx(angle, abs=0.3)
    assert numbers["precision"] < 0.3


def test_too_few_matches_for_a_pose() -> None:
    points0, points1 = seen_points(pose((1.0, 0.1, 0.2)))
    numbers, failure = measure(points0[:4], points1[:4], pose((1.0, 0.1, 0.2)))
    assert "at least 5 matches" in failure
    assert numbers["error"] == np.inf and numbers["precision"] == 0 and numbers["matches"] == 4


def test_pose_suite(tmp_path: Path) -> None:
    """Two photographs of a plane by a camera that moves: matches of SIFT give the pose back."""
    T, normal, depth = pose((0, 0, 0)), np.array([0.0, 0.0, 1.0]), 2.0
    T[:3, 3] = T[:3, :3] @ (0, 0, 0.6)
    H = K @ (T[:3, :3] + np.outer(T[:3, 3], normal) / depth) @ np.linalg.inv(K)
    image = texture(4, (320, 240))
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), cv2.warpPerspective(image, H, (320, 240)))
    (tmp_path / "pairs.txt").write_text(
        pair_line("a.png", "b.png", K, T) + pair_line("a.png", "none.png", K, T)
    )
    found = evaluate(SIFT, PoseSuite(folder=tmp_path, pair_file=tmp_path / "pairs.txt"))
    good, missing = found.results
    assert good.metrics["error"] < 10 and good.metrics["precision"] > 0.9
    assert missing.unreadable and "none.png" in missing.failure
    assert set(found.summary["auc"]) == set(found.summary["auc_lo"]) == {"5", "10", "20"}
    assert found.summary["auc"]["20"] == pytest.approx(50 * (1 - good.metrics["error"] / 40), abs=1)
    assert {"precision", "recall", "matches", "pairs", "failures"} <= set(found.summary)

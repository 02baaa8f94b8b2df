"""benchmarks/sfm.py: errors of camera poses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("sfm")


def pose(R: np.ndarray, center: np.ndarray) -> np.ndarray:
    """From world to camera, (4, 4)."""
    return np.r_[np.c_[R, -R @ center], [[0, 0, 0, 1]]]


def rotation(*angles: float) -> np.ndarray:
    return np.asarray(cv2.Rodrigues(np.array(angles))[0])


def test_errors_are_free_of_the_similarity_of_the_model(script: ModuleType) -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 1, (12, 3))
    rotations = [rotation(*rng.normal(0, 1, 3)) for _ in centers]
    poses = {
        str(i): pose(R, center)
        for i, (R, center) in enumerate(zip(rotations, centers, strict=True))
    }
    world, scale, shift = rotation(0.3, -1.2, 2.0), 3.7, np.array([5.0, -2.0, 1.0])
    turn = np.radians(0.5)
    found = {
        str(i): pose(rotation(0, 0, turn * (-1) ** i) @ R @ world.T, scale * world @ c + shift)
        for i, (R, c) in enumerate(zip(rotations, centers, strict=True))
    }
    R = found["3"][:3, :3]
    found["3"] = pose(R, scale * world @ centers[3] + shift + 100)  # a wrong camera
    errors = script.pose_errors(found, poses, sorted(poses))
    assert errors["center_percent"] < 0.05
    assert errors["rotation_degrees"] == pytest.approx(0.5, abs=0.1)


def test_errors_are_those_of_the_images_of_all_methods(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    poses = {str(i): pose(rotation(*rng.normal(0, 1, 3)), rng.normal(0, 1, 3)) for i in range(14)}
    monkeypatch.setattr(script, "known_poses", lambda scene: poses)
    wrong = dict(list(poses.items())[:11]) | {str(i): pose(np.eye(3), np.ones(3)) for i in (11, 12)}
    rows: dict[str, dict[str, Any]] = {"sift": {}, "fast": {}}
    script.add_pose_errors(tmp_path, rows, [dict(list(poses.items())[:11]), wrong])
    assert rows["fast"]["common"] == 11 and rows["fast"]["center_percent"] < 1e-6
    rows = {"sift": {}, "fast": {}}
    script.add_pose_errors(tmp_path, rows, [dict(list(poses.items())[:9]), wrong])
    assert rows == {"sift": {"common": 9}, "fast": {"common": 9}}


def test_ratios_are_geometric_means(script: ModuleType) -> None:
    def row(value: float) -> dict[str, float]:
        return {"track_length": value, "processor_seconds": 1.0}

    results = {
        "a": {"sift": row(2), "fast": row(4)},
        "b": {"sift": row(2), "fast": row(1)},
    }
    assert "fast / sift: track length 1.00" in script.ratios(results)


def test_a_row_of_the_table_has_all_methods(script: ModuleType) -> None:
    shared = {"photos": 12, "track_length": 5.0, "reprojection_error": 0.5, "processor_seconds": 9}
    rows = {
        "sift": shared | {"registered": 10, "center_percent": 0.25, "rotation_degrees": 0.1},
        "fast": shared | {"registered": 12},
    }
    lines = script.table({"horns": rows}).splitlines()
    assert lines[0] == "In each cell: sift / fast."
    assert (
        lines[-1]
        == "| horns, 12 | 10 / 12 | 5.0 / 5.0 | 0.50 / 0.50 | 0.25 / – | 0.10 / – | 9 / 9 |"
    )

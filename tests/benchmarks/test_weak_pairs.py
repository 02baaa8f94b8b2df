"""benchmarks/weak_pairs.py on crops of a photograph and on a rotating camera."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

K = np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]])


def write_scene(folder: Path, image: np.ndarray) -> None:
    """Two views of a plane by a camera that moves and rotates by 15°."""
    folder.mkdir(parents=True)
    angle = np.deg2rad(15)
    R = np.array([[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]])
    t = np.array([0.3, 0, 0.1])
    H = K @ (R + np.outer(t, [0, 0, 1])) @ np.linalg.inv(K)  # plane z = 1 of camera 0
    first = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / "0.jpg"), first)
    cv2.imwrite(str(folder / "1.jpg"), cv2.warpPerspective(first, H, (320, 240)))
    w2c = np.stack((np.eye(4), np.eye(4)))
    w2c[1, :3, :3], w2c[1, :3, 3] = R, t
    np.savez(folder / "poses.npz", names=["0", "1"], w2c=w2c, K=K, dist=np.zeros((2, 5)))


def test_the_table_has_a_row_for_each_kind(
    load_script: Callable[[str], ModuleType],
    photographs: dict[str, np.ndarray],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = load_script("weak_pairs")
    (tmp_path / "photos").mkdir()
    for name in ("camera", "coffee"):
        cv2.imwrite(str(tmp_path / "photos" / f"{name}.png"), photographs[name])
    write_scene(tmp_path / "scenes" / "plane", photographs["coffee"])
    script.main([str(tmp_path / "photos"), str(tmp_path / "scenes"), "--num-pairs", "2"])
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| {kind}" for kind in (*script.KINDS, *script.SCENES)]
    assert [row[-1] for row in rows] == ["2 |", "2 |", "2 |", "1 |", "1 |"]
    plain, changed = (row[3] for row in rows[-2:])
    assert float(plain.split(",")[0]) > 80
    assert changed != plain


def test_views_of_a_scene_are_undistorted(
    load_script: Callable[[str], ModuleType], photographs: dict[str, np.ndarray], tmp_path: Path
) -> None:
    script = load_script("weak_pairs")
    write_scene(tmp_path / "plane", photographs["coffee"])
    (pair,) = script.poses(tmp_path, "scenes", 4)
    np.testing.assert_allclose(pair.K0, K)
    np.testing.assert_allclose(pair.T_0to1[:3, 3], [0.3, 0, 0.1])
    np.testing.assert_array_equal(
        pair.image0, cv2.imread(str(tmp_path / "plane" / "0.jpg"), cv2.IMREAD_GRAYSCALE)
    )

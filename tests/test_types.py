"""Features, Matches and MatchResult: validated, and saved as SuperGlue saves them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherglue import Features, Matches, MatchResult
from featherglue.errors import EstimationError, OutputError, UsageError


def features(count: int = 5, seed: int = 0, **changes: Any) -> Features:
    rng = np.random.default_rng(seed)
    values: dict[str, Any] = {
        "keypoints": (rng.random((count, 2)) * 100).astype(np.float32),
        "scores": rng.random(count).astype(np.float32),
        "descriptors": rng.random((count, 4)).astype(np.float32),
        "image_size": (120, 110),
    }
    return Features(**(values | changes))


def matches(count: int = 2) -> Matches:
    rng = np.random.default_rng(1)
    return Matches(
        indices=np.stack((np.arange(count)[::-1] + 1, np.arange(count)), 1),
        scores=rng.random(count).astype(np.float32),
        points0=(rng.random((count, 2)) * 100).astype(np.float32),
        points1=(rng.random((count, 2)) * 100).astype(np.float32),
        refined=np.arange(count) % 2 == 0,
    )


def test_lengths() -> None:
    assert len(features(7)) == 7
    assert len(features(0)) == 0
    assert len(matches(3)) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"keypoints": np.zeros((5, 3), np.float32)},
        {"keypoints": np.zeros((5, 2))},
        {"scores": np.zeros((5, 1), np.float32)},
        {"scores": np.zeros(4, np.float32)},
        {"scores": np.zeros(5, np.float64)},
        {"descriptors": np.zeros((4, 5), np.float32)},
        {"descriptors": np.zeros(5, np.float32)},
        {"descriptors": np.zeros((5, 4), np.float16)},
        {"image_size": (0, 10)},
        {"image": np.zeros((120, 110), np.uint8)},
        {"image": np.zeros((110, 120), np.float32)},
        {"image": np.zeros((110, 120, 3), np.uint8)},
    ],
)
def test_features_are_checked(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        features(**changes)


@pytest.mark.parametrize("name", ["indices", "scores", "points0", "points1", "refined"])
def test_matches_are_checked(name: str) -> None:
    good = matches(3)
    with pytest.raises(UsageError, match="must be"):
        dataclasses.replace(good, **{name: getattr(good, name)[:2]})


def test_lists_are_rejected() -> None:
    with pytest.raises(UsageError, match="keypoints must be a NumPy array, not list"):
        features(keypoints=[[1.0, 2.0]] * 5)
    with pytest.raises(UsageError, match="refined must be a NumPy array, not list"):
        dataclasses.replace(matches(3), refined=[True] * 3)


def test_representations_are_short() -> None:
    result = MatchResult(
        features0=features(4), features1=features(6), matches=matches(3), milliseconds={"a": 1.26}
    )
    assert repr(result.features0) == "Features(4 keypoints, 4-d, 120×110)"
    assert repr(result.matches) == "Matches(3 matches, 2 refined)"
    assert repr(result) == "MatchResult(3 matches of 4 and 6 keypoints, 1.3 ms)"


def test_everything_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        features().scores = np.zeros(5, np.float32)  # type: ignore[misc]


def test_saved_as_superglue_saves(tmp_path: Path) -> None:
    result = MatchResult(
        features0=features(4), features1=features(6, 1), matches=matches(2), milliseconds={}
    )
    path = tmp_path / "folder" / "a_b_matches.npz"
    result.save(path)
    with np.load(path) as saved:
        np.testing.assert_array_equal(saved["keypoints0"], result.features0.keypoints)
        np.testing.assert_array_equal(saved["keypoints1"], result.features1.keypoints)
        assert saved["matches"].tolist() == [-1, 1, 0, -1]
        assert saved["matches"].dtype == np.int64
        scores = result.matches.scores
        np.testing.assert_array_equal(
            saved["match_confidence"], np.array([0, scores[1], scores[0], 0], np.float32)
        )
        np.testing.assert_array_equal(saved["points1"], result.matches.points1)
        np.testing.assert_array_equal(saved["refined"], result.matches.refined)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        result.save(tmp_path / "file" / "a.npz")


def test_geometry_needs_enough_matches() -> None:
    result = MatchResult(
        features0=features(), features1=features(), matches=matches(3), milliseconds={}
    )
    K = np.diag([100.0, 100.0, 1.0])
    for estimate in (
        result.homography,
        result.fundamental,
        lambda: result.relative_pose(K, K),
    ):
        with pytest.raises(EstimationError, match="needs at least"):
            estimate()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("keypoints", [[1.0, 2.0]] * 5, "keypoints must be a NumPy array, not list"),
        ("keypoints", np.float32(3), "keypoints must be a NumPy array"),
        ("keypoints", np.array(3, np.float32), r"keypoints must be \(0, 2\), not \(\)"),
        ("keypoints", np.full((5, 2), np.nan, np.float32), "keypoints must be finite"),
        ("scores", np.array([1, 2, 3, 4, np.inf], np.float32), "scores must be finite"),
        ("descriptors", np.full((5, 4), np.nan, np.float32), "descriptors must be finite"),
        ("image_size", (120.5, 110), r"image_size must be \(width, height\)"),
        ("image_size", "120x110", r"image_size must be \(width, height\)"),
        ("image_size", None, r"image_size must be \(width, height\)"),
    ],
)
def test_wrong_features_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        features(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("indices", [[0, 1], [1, 0]], "indices must be a NumPy array, not list"),
        ("indices", np.zeros((2, 2)), "indices must be integer, not float64"),
        ("indices", np.array([[0, -1], [1, 0]]), "indices must be at least 0"),
        ("scores", np.zeros(2, np.int64), "scores must be floating, not int64"),
        ("points1", np.full((2, 2), np.inf, np.float32), "points1 must be finite"),
        ("refined", np.zeros(2, np.uint8), "refined must be bool, not uint8"),
    ],
)
def test_wrong_matches_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(matches(2), **{name: value})


def test_indices_are_keypoints_of_the_features() -> None:
    with pytest.raises(UsageError, match="below the number of keypoints of features0, 2"):
        MatchResult(features0=features(2), features1=features(5), matches=matches(2))
    with pytest.raises(UsageError, match="below the number of keypoints of features1, 1"):
        MatchResult(features0=features(5), features1=features(1), matches=matches(2))

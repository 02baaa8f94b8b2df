"""Union and verification of matches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.matching.fusion import limit_keypoints, nearest_keypoints, unite, verify
from featherglue.types import Features, Matches, MatchResult


def result(points0: np.ndarray, points1: np.ndarray, unmatched: int = 0) -> MatchResult:
    """Matches between points, and unmatched keypoints before them; descriptors are positions."""
    count = len(points0)
    rng = np.random.default_rng(count)

    def features(points: np.ndarray) -> Features:
        others = rng.uniform(0, 99, (unmatched, 2)).astype(np.float32)
        keypoints = np.concatenate((others, points.astype(np.float32)))
        scores = np.linspace(0.9, 0.1, len(keypoints), dtype=np.float32)
        return Features(
            keypoints=keypoints,
            scores=scores,
            descriptors=np.repeat(keypoints[:, :1], 4, 1),
            image_size=(640, 480),
            image=None,
        )

    matches = Matches(
        indices=np.stack((np.arange(count) + unmatched,) * 2, 1),
        scores=np.linspace(0.9, 0.3, count, dtype=np.float32),
        points0=points0.astype(np.float32),
        points1=points1.astype(np.float32),
        refined=np.zeros(count, np.bool_),
    )
    return MatchResult(features0=features(points0), features1=features(points1), matches=matches)


def check_indices(united: MatchResult) -> None:
    matches = united.matches
    for features, column, points in (
        (united.features0, 0, matches.points0),
        (united.features1, 1, matches.points1),
    ):
        rows = matches.indices[:, column]
        assert len(set(rows)) == len(rows)
        np.testing.assert_array_equal(features.keypoints[rows], points)
        np.testing.assert_array_equal(features.descriptors[:, 0], features.keypoints[:, 0])


@pytest.fixture
def near_and_far() -> tuple[MatchResult, MatchResult]:
    """Three matches, and three others: one near the first, two far from all."""
    first = np.array([[100, 100], [200, 100], [300, 100]])
    second = np.array([[101, 100], [100, 300], [200, 300]])
    return result(first, first + 5, unmatched=4), result(second, second + 5, unmatched=2)


def test_new_matches_are_added(near_and_far: tuple[MatchResult, MatchResult]) -> None:
    first, second = near_and_far
    united = unite(first, second, distance=3, limit=100)
    check_indices(united)
    assert united.matches.points0[:, 1].tolist() == [100, 100, 100, 300, 300]
    assert len(united.features0) == len(first.features0) + 2
    same = unite(first, first, distance=3, limit=100)
    np.testing.assert_array_equal(same.matches.points0, first.matches.points0)


def test_distances_are_those_of_the_reduced_images(
    near_and_far: tuple[MatchResult, MatchResult],
) -> None:
    first, second = near_and_far
    united = unite(first, second, distance=3, limit=100, factors=(4.0, 4.0))
    assert len(united.matches) == 6  # 1 px is 4 px there
    united = unite(first, second, distance=3, limit=100, factors=(0.5, 0.01))
    assert len(united.matches) == 3  # 200 px of image 1 are 2 px there


@pytest.mark.parametrize(("limit", "matches"), [(6, 5), (5, 5), (4, 4), (3, 3)])
def test_the_number_of_keypoints_is_limited(
    limit: int, matches: int, near_and_far: tuple[MatchResult, MatchResult]
) -> None:
    united = unite(*near_and_far, distance=3, limit=limit)
    check_indices(united)
    assert len(united.matches) == matches
    if matches > 3:  # the strongest unmatched keypoints stay
        assert len(united.features0) == limit
    assert 300 in united.matches.points0[:, 0]


@pytest.mark.parametrize("limit", [2, 3, 5, 9])
def test_a_limit_leaves_out_unmatched_keypoints_first(
    limit: int, near_and_far: tuple[MatchResult, MatchResult]
) -> None:
    first, _ = near_and_far  # three matches, four unmatched keypoints
    limited = limit_keypoints(first, limit)
    check_indices(limited)
    assert len(limited.features0) == len(limited.features1) == min(limit, 7)
    assert limited.matches.scores.tolist() == first.matches.scores[:limit].tolist()


def test_matches_are_assigned_to_keypoints() -> None:
    keypoints = np.array([[10, 10], [50, 50], [90, 90]])
    given = result(keypoints, keypoints + 100)
    points0 = np.array([[11, 10], [10, 11], [51, 50], [90, 94], [300, 300]])
    found = result(points0, points0 + 100)  # confidence descends
    indices, scores = nearest_keypoints(found.matches, given.features0, given.features1, 3)
    assert indices.tolist() == [[0, 0], [1, 1]]
    np.testing.assert_array_equal(scores, found.matches.scores[[0, 2]])
    none = result(points0[:0], points0[:0])
    assert nearest_keypoints(none.matches, given.features0, given.features1, 3)[0].shape == (0, 2)
    assert nearest_keypoints(found.matches, none.features0, none.features1, 3)[0].shape == (0, 2)


def test_matches_off_the_epipolar_lines_are_dropped() -> None:
    rng = np.random.default_rng(0)
    X = np.c_[rng.uniform(-2, 2, (60, 2)), rng.uniform(4, 9, 60)]
    K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    projected = [(Y @ K.T)[:, :2] / Y[:, 2:] for Y in (X, X + np.array([1.0, 0.1, 0.2]))]
    projected[1][:15] += rng.uniform(30, 60, (15, 2)) * rng.choice((-1, 1), (15, 2))
    verified = verify(result(*projected), tolerance=2, min_inliers=12)
    kept = set(verified.matches.indices[:, 0])
    assert set(range(15, 60)) <= kept
    assert len(kept & set(range(15))) <= 4  # some lie near their line by chance


@pytest.mark.parametrize("size", [1, 4])
def test_noise_of_reduced_images_is_no_contradiction(size: int) -> None:
    rng = np.random.default_rng(0)
    X = np.c_[rng.uniform(-2, 2, (60, 2)), rng.uniform(4, 9, 60)]
    K = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    projected = [(Y @ K.T)[:, :2] / Y[:, 2:] for Y in (X, X + np.array([1.0, 0.1, 0.2]))]
    points = [each + rng.normal(0, 1, each.shape) for each in projected]
    enlarged = result(size * points[0], size * points[1])
    kept = verify(enlarged, tolerance=4, min_inliers=12, factors=(1 / size, 1 / size))
    assert len(kept.matches) >= 58


def test_a_failed_estimation_keeps_all_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise cv2.error("Assertion failed")

    monkeypatch.setattr(cv2, "findFundamentalMat", fail)
    points = np.random.default_rng(1).uniform(0, 400, (20, 2))
    exact = result(points, points + 3)
    assert verify(exact, tolerance=2, min_inliers=12) is exact


def test_too_few_matches_are_not_verified() -> None:
    points = np.random.default_rng(1).uniform(0, 400, (20, 2))
    few = result(points[:10], points[:10])
    assert verify(few, tolerance=2, min_inliers=12) is few
    exact = result(points, points + 3)
    assert len(verify(exact, tolerance=2, min_inliers=12).matches) == 20

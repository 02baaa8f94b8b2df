"""Pairs that one homography explains: alignment, filter and guided matching."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from featherglue.geometry.projection import warp_points
from featherglue.matching.guided import GuidedConfig, match_plane, refine_again
from featherglue.matching.scratch import Scratch
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult

H = np.array([[0.98, -0.05, 12], [0.04, 1.02, -7], [1e-5, 2e-5, 1]])
CONFIG = GuidedConfig()
SETTINGS = ProcessingConfig(working_size=640)


def features(points: np.ndarray, descriptors: np.ndarray) -> Features:
    return Features(
        keypoints=points.astype(np.float32),
        scores=np.full(len(points), 0.5, np.float32),
        descriptors=descriptors,
        image_size=(640, 480),
    )


def scene(count: int, num_matched: int, seed: int = 0) -> tuple[Features, Features, Matches]:
    """Keypoints of a plane seen twice, in different orders; the first ones are matched."""
    rng = np.random.default_rng(seed)
    points = rng.uniform((20, 20), (620, 460), (count, 2))
    descriptors = rng.normal(size=(count, 64)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    order = rng.permutation(count)
    noise = rng.uniform(-0.5, 0.5, (count, 2))
    first = features(points, descriptors)
    second = features((warp_points(points, H) + noise)[order], descriptors[order])
    indices = np.stack((np.arange(count), np.argsort(order)), 1)[:num_matched]
    matches = Matches(
        indices=indices,
        scores=np.full(num_matched, 0.9, np.float32),
        points0=first.keypoints[indices[:, 0]],
        points1=second.keypoints[indices[:, 1]],
        refined=np.zeros(num_matched, np.bool_),
    )
    return first, second, matches


def pair_of(first: Features, second: Features, matches: Matches) -> MatchResult:
    return MatchResult(features0=first, features1=second, matches=matches, milliseconds={})


def matched(first: Features, second: Features, matches: Matches) -> Matches:
    """The matches of a pair that one homography explains."""
    found = match_plane(pair_of(first, second, matches), SETTINGS, Scratch())
    assert found is not None
    return found.matches


def errors(matches: Matches) -> np.ndarray:
    return np.linalg.norm(warp_points(matches.points0, H) - matches.points1, axis=1)


def textured_pair(
    photographs: dict[str, np.ndarray], first: Features, second: Features
) -> tuple[Features, Features]:
    """Features with images that show the plane."""
    image0 = cv2.resize(photographs["coffee"], (640, 480), interpolation=cv2.INTER_AREA)
    image1 = cv2.warpPerspective(image0, H, (640, 480), borderMode=cv2.BORDER_REFLECT)
    return dataclasses.replace(first, image=image0), dataclasses.replace(second, image=image1)


def test_unmatched_keypoints_of_a_plane_get_their_partners() -> None:
    first, second, matches = scene(100, 40)
    found = matched(first, second, matches)
    assert len(found) >= 95
    assert errors(found).max() < 1
    for column in (0, 1):
        assert len(np.unique(found.indices[:, column])) == len(found)
    new = ~np.isin(found.indices[:, 0], matches.indices[:, 0])
    assert new.sum() >= 55
    assert (found.scores[new] <= CONFIG.score).all()
    np.testing.assert_array_equal(found.points1, second.keypoints[found.indices[:, 1]])


def test_wrong_matches_of_a_plane_are_dropped_and_their_keypoints_matched_again() -> None:
    first, second, matches = scene(100, 80)
    indices, points1 = matches.indices.copy(), matches.points1.copy()
    indices[:10, 1] = np.roll(indices[:10, 1], 1)  # ten wrong partners
    points1[:10] = second.keypoints[indices[:10, 1]]
    found = matched(first, second, dataclasses.replace(matches, indices=indices, points1=points1))
    assert errors(found).max() < 1.5
    partner = dict(matches.indices.tolist())
    true = [partner[i] == j for i, j in found.indices.tolist() if i in partner]
    assert all(true)
    assert len(true) >= 78


def test_opposite_descriptors_are_no_partners() -> None:
    first, second, matches = scene(100, 40)
    found = matched(first, dataclasses.replace(second, descriptors=-second.descriptors), matches)
    assert len(found) <= 45


@pytest.mark.parametrize("num_matched", [0, 3, CONFIG.plane.min_matches - 1])
def test_few_matches_predict_nothing(num_matched: int) -> None:
    assert match_plane(pair_of(*scene(60, num_matched)), SETTINGS, Scratch()) is None


def test_all_keypoints_may_be_matched_already() -> None:
    first, second, matches = scene(40, 40)
    assert len(matched(first, second, matches)) >= 38


def test_matches_that_show_depth_stay() -> None:
    first, second, matches = scene(120, 120)
    nearer = matches.points0[:, 0] < 200  # a second plane, with parallax along x
    points1 = matches.points1 + np.float32((25, 0)) * nearer[:, None]
    keypoints1 = second.keypoints.copy()
    keypoints1[matches.indices[:, 1]] = points1
    found = match_plane(
        pair_of(
            first,
            dataclasses.replace(second, keypoints=keypoints1),
            dataclasses.replace(matches, points1=points1.astype(np.float32)),
        ),
        SETTINGS,
        Scratch(),
    )
    if found is not None:
        kept = set(found.matches.indices[:, 0].tolist())
        assert len(kept & set(np.flatnonzero(nearer).tolist())) >= 0.9 * nearer.sum()


def test_a_large_image_is_matched_at_its_working_size() -> None:
    """The same scene at five times the size gets the same partners."""
    first, second, matches = scene(100, 40)
    small = matched(first, second, matches)
    larger = [
        dataclasses.replace(f, keypoints=f.keypoints * 5, image_size=(3200, 2400))
        for f in (first, second)
    ]
    scaled = dataclasses.replace(matches, points0=matches.points0 * 5, points1=matches.points1 * 5)
    large = matched(larger[0], larger[1], scaled)
    assert len(small) > 95
    np.testing.assert_array_equal(small.indices, large.indices)
    np.testing.assert_array_equal(large.points0, larger[0].keypoints[large.indices[:, 0]])


def test_matches_are_aligned_on_the_images(photographs: dict[str, np.ndarray]) -> None:
    first, second, matches = scene(100, 40)
    first, second = textured_pair(photographs, first, second)
    found = matched(first, second, matches)
    moved = found.refined
    assert moved.sum() > 50
    before = np.linalg.norm(
        warp_points(found.points0, H) - second.keypoints[found.indices[:, 1]], axis=1
    )
    assert np.median(errors(found)[moved]) < 0.5 * np.median(before[moved])


def test_refining_again_is_more_accurate(photographs: dict[str, np.ndarray]) -> None:
    first, second, matches = scene(100, 100)
    result = pair_of(*textured_pair(photographs, first, second), matches)
    once = refine_again(result, SETTINGS, Scratch())
    twice = refine_again(once, SETTINGS, Scratch())
    assert np.median(errors(once.matches)) < 0.5 * np.median(errors(matches))
    assert np.mean(errors(twice.matches)) <= 1.05 * np.mean(errors(once.matches))


def test_without_images_or_refinement_points_stay() -> None:
    result = pair_of(*scene(60, 40))
    assert refine_again(result, SETTINGS, Scratch()) is result

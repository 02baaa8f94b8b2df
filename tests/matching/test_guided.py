"""Guided matching: partners near the places that a homography predicts."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from featherglue.geometry.projection import warp_points
from featherglue.matching.guided import GuidedConfig, complete, guided_matches
from featherglue.matching.scratch import Scratch
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult

H = np.array([[0.98, -0.05, 12], [0.04, 1.02, -7], [1e-5, 2e-5, 1]])
CONFIG = GuidedConfig()


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


def test_unmatched_keypoints_of_a_plane_get_their_partners() -> None:
    first, second, matches = scene(100, 40)
    found = guided_matches(first, second, matches, CONFIG)
    assert len(found) >= 58  # of 60
    errors = warp_points(found.points0, H) - found.points1
    assert np.abs(errors).max() < 1
    assert not set(found.indices[:, 0]) & set(matches.indices[:, 0])
    assert not set(found.indices[:, 1]) & set(matches.indices[:, 1])
    assert len(np.unique(found.indices[:, 1])) == len(found)
    assert (found.scores <= CONFIG.score).all()
    np.testing.assert_array_equal(found.points1, second.keypoints[found.indices[:, 1]])


def test_other_descriptors_are_no_partners() -> None:
    first, second, matches = scene(100, 40)
    strangers = np.random.default_rng(5).normal(size=(100, 64)).astype(np.float32)
    strangers /= np.linalg.norm(strangers, axis=1, keepdims=True)
    found = guided_matches(
        first, dataclasses.replace(second, descriptors=strangers), matches, CONFIG
    )
    assert len(found) <= 2


@pytest.mark.parametrize("num_matched", [0, 3, CONFIG.min_matches - 1])
def test_few_matches_predict_nothing(num_matched: int) -> None:
    assert len(guided_matches(*scene(60, num_matched), CONFIG)) == 0


def test_matches_without_a_common_homography_predict_nothing() -> None:
    first, second, matches = scene(100, 40)
    points1 = np.random.default_rng(1).uniform(0, 460, (40, 2)).astype(np.float32)
    scattered = dataclasses.replace(matches, points1=points1)
    assert len(guided_matches(first, second, scattered, CONFIG)) == 0


def test_nothing_is_left_to_match() -> None:
    first, second, matches = scene(40, 40)
    assert len(guided_matches(first, second, matches, CONFIG)) == 0


def test_a_large_image_is_completed_at_its_working_size() -> None:
    """The same scene at five times the size gets the same partners."""
    first, second, matches = scene(100, 40)
    small = complete(
        MatchResult(features0=first, features1=second, matches=matches, milliseconds={}),
        ProcessingConfig(working_size=640),
        Scratch(),
    )
    larger = [
        dataclasses.replace(f, keypoints=f.keypoints * 5, image_size=(3200, 2400))
        for f in (first, second)
    ]
    scaled = dataclasses.replace(matches, points0=matches.points0 * 5, points1=matches.points1 * 5)
    large = complete(
        MatchResult(features0=larger[0], features1=larger[1], matches=scaled, milliseconds={}),
        ProcessingConfig(working_size=640),
        Scratch(),
    )
    assert len(small.matches) > 95
    np.testing.assert_array_equal(small.matches.indices, large.matches.indices)
    np.testing.assert_array_equal(large.matches.points1[:40], scaled.points1)  # they stay
    found = large.matches.indices[40:]
    np.testing.assert_array_equal(large.matches.points0[40:], larger[0].keypoints[found[:, 0]])


def test_new_matches_are_refined_on_the_images(photographs: dict[str, np.ndarray]) -> None:
    image0 = cv2.resize(photographs["coffee"], (640, 480), interpolation=cv2.INTER_AREA)
    image1 = cv2.warpPerspective(image0, H, (640, 480), borderMode=cv2.BORDER_REFLECT)
    first, second, matches = scene(100, 40)
    result = complete(
        MatchResult(
            features0=dataclasses.replace(first, image=image0),
            features1=dataclasses.replace(second, image=image1),
            matches=matches,
            milliseconds={},
        ),
        ProcessingConfig(),
        Scratch(),
    )
    new = result.matches.refined
    assert not new[:40].any()
    assert new[40:].sum() > 15
    errors = np.linalg.norm(
        warp_points(result.matches.points0[new], H) - result.matches.points1[new], axis=1
    )
    before = np.linalg.norm(
        warp_points(result.matches.points0[new], H)
        - second.keypoints[result.matches.indices[new, 1]],
        axis=1,
    )
    assert np.median(errors) < 0.5 * np.median(before)

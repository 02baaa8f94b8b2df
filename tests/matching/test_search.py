"""The search over rotation and scale, with the shipped model on real photographs."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from featherglue.errors import ConfigError
from featherglue.geometry.projection import warp_points
from featherglue.matching.search import Search, relative_view
from featherglue.matching.search_config import SearchConfig
from featherglue.matching.search_pipeline import SessionPipeline
from featherglue.matching.warped_views import View, is_mild, local_scale, shrink
from featherglue.options import SearchMode
from featherglue.session import Session, load
from featherglue.types import Features, Matches, MatchResult


@pytest.fixture(scope="module")
def plain() -> Session:
    return load("fast", threads=1, search="off")


@pytest.fixture(scope="module")
def searching() -> Session:
    return load("fast", threads=1, search="auto")


@pytest.fixture(scope="module")
def photograph(photographs: dict[str, np.ndarray]) -> np.ndarray:
    return cv2.resize(photographs["coffee"], (480, 320), interpolation=cv2.INTER_AREA)


def rotated(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole image rotated, and the homography onto it."""
    height, width = image.shape
    turn = np.vstack([cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)])
    c, s = abs(np.cos(np.radians(degrees))), abs(np.sin(np.radians(degrees)))
    size = round(width * c + height * s), round(height * c + width * s)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(image, turn, size), np.vstack([turn, [0, 0, 1]])


def scaled(image: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The image shrunk, and the homography onto it."""
    small = shrink(image, factor)
    sx, sy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
    return small, np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def num_true(result: MatchResult, H: np.ndarray) -> int:
    """Number of matches within 3 px of the truth, in pixels of image 1."""
    if not len(result.matches):
        return 0
    there = cv2.perspectiveTransform(result.matches.points0[None].astype(float), H)[0]
    return int((np.linalg.norm(there - result.matches.points1, axis=1) < 3).sum())


@pytest.mark.parametrize("degrees", [90, 135, 180, 270])
def test_every_rotation_is_found(
    degrees: int, plain: Session, searching: Session, photograph: np.ndarray
) -> None:
    upright = num_true(plain(photograph, photograph), np.eye(3))
    turned, H = rotated(photograph, degrees)
    result = searching(photograph, turned)
    assert num_true(result, H) > 0.7 * upright
    assert result.search is not None
    difference = (result.search.rotation + degrees + 180) % 360 - 180
    assert abs(difference) < 2
    assert list(result.milliseconds)[-1] == "search"
    for features, column, points in (
        (result.features0, 0, result.matches.points0),
        (result.features1, 1, result.matches.points1),
    ):
        assert len(features) <= searching.processing.max_keypoints
        found = features.keypoints[result.matches.indices[:, column]]
        assert np.abs(found - points).max() < (0.01 if column == 0 else 10)  # refined in image 1


@pytest.mark.parametrize("factor", [0.4, 0.25])
def test_ratios_of_scale_are_found(
    factor: float, plain: Session, searching: Session, photograph: np.ndarray
) -> None:
    small, H = scaled(photograph, factor)
    for pair, truth in (((photograph, small), H), ((small, photograph), np.linalg.inv(H))):
        before, after = plain(*pair), searching(*pair)
        assert after.search is not None
        assert num_true(after, truth) > max(15, 2 * num_true(before, truth))
        ratio = after.search.scale
        assert ratio == pytest.approx(np.sqrt(abs(np.linalg.det(truth[:2, :2]))), rel=0.1)


def test_easy_pair_keeps_its_plain_match(
    plain: Session, searching: Session, photograph: np.ndarray
) -> None:
    first, second = plain(photograph, photograph[10:]), searching(photograph, photograph[10:])
    assert second.search is None
    assert "search" not in second.milliseconds
    np.testing.assert_array_equal(first.matches.points1, second.matches.points1)


def test_only_always_warps_a_pair_that_matches_well(
    searching: Session, photograph: np.ndarray
) -> None:
    """A tilt of the second image leaves its scale and rotation as they are."""
    height, width = photograph.shape
    tilt = np.array([[1.0, 0, 0], [0, 1, 0], [9e-4, 0, 1]])
    middle = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    H = middle @ tilt @ np.linalg.inv(middle)
    tilted = cv2.warpPerspective(photograph, H, (width, height), borderMode=cv2.BORDER_REFLECT)
    auto = searching(photograph, tilted)
    always = searching.with_search("always")(photograph, tilted)
    assert auto.search is None
    assert always.search is not None and always.search.warps >= 1
    assert num_true(always, H) > num_true(auto, H)


@pytest.mark.parametrize("search", ["off", "auto"])
def test_a_homography_completes_a_weak_match(
    search: SearchMode, plain: Session, photograph: np.ndarray
) -> None:
    """The second image is dark and noisy: fewer keypoints match, and none is turned."""
    noise = np.random.default_rng(0).normal(0, 14, photograph.shape)
    dark = np.clip(photograph[8:, 5:] * 0.3 + noise[8:, 5:], 0, 255).astype(np.uint8)
    H = np.array([[1.0, 0, -5], [0, 1, -8], [0, 0, 1]])
    session = plain.with_search(search)
    before = session.with_settings(guided_matching=False)(photograph, dark)
    after = session(photograph, dark)
    assert len(before.matches) > 20
    assert before.search is None and after.search is None
    assert num_true(after, H) > 1.1 * num_true(before, H)
    errors = [
        np.median(np.linalg.norm(warp_points(r.matches.points0, H) - r.matches.points1, axis=1))
        for r in (before, after)
    ]
    assert errors[1] <= errors[0]


def test_guided_matching_needs_refinement_images_and_few_matches(
    plain: Session, photograph: np.ndarray
) -> None:
    noise = np.random.default_rng(0).normal(0, 14, photograph.shape)
    dark = np.clip(photograph[8:, 5:] * 0.3 + noise[8:, 5:], 0, 255).astype(np.uint8)
    first, second = plain.extract(photograph), plain.extract(dark)
    assert "guided" in plain.match(first, second).milliseconds
    assert "guided" not in plain(photograph, photograph[10:]).milliseconds
    unrefined = plain.with_settings(refine=False)
    assert "guided" not in unrefined.match(first, second).milliseconds
    without = dataclasses.replace(second, image=None)
    assert "guided" not in plain.match(first, without).milliseconds

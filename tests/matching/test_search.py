"""The search over rotation and scale, with the shipped model on real photographs."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.errors import ConfigError
from featherglue.geometry.projection import warp_points
from featherglue.matching import search
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


@pytest.mark.parametrize("factor", [0.3, 0.2])
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
def test_a_homography_completes_an_incomplete_match(
    search: SearchMode, plain: Session, photograph: np.ndarray
) -> None:
    """The second image is dark and noisy: fewer keypoints match, too many for a search."""
    noise = np.random.default_rng(0).normal(0, 7, photograph.shape)
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


def test_without_refinement_a_search_completes_nothing(
    plain: Session, searching: Session, photograph: np.ndarray
) -> None:
    noise = np.random.default_rng(0).normal(0, 7, photograph.shape)
    dark = np.clip(photograph[8:, 5:] * 0.3 + noise[8:, 5:], 0, 255).astype(np.uint8)
    first, second = (
        session.with_settings(refine=False)(photograph, dark).matches
        for session in (plain, searching)
    )
    np.testing.assert_array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.points1, second.points1)


def test_guided_matching_needs_refinement_images_and_few_matches(
    plain: Session, photograph: np.ndarray
) -> None:
    noise = np.random.default_rng(0).normal(0, 7, photograph.shape)
    dark = np.clip(photograph[8:, 5:] * 0.3 + noise[8:, 5:], 0, 255).astype(np.uint8)
    first, second = plain.extract(photograph), plain.extract(dark)
    assert "guided" in plain.match(first, second).milliseconds
    assert "guided" not in plain(photograph, photograph[10:]).milliseconds
    unrefined = plain.with_settings(refine=False)
    assert "guided" not in unrefined.match(first, second).milliseconds
    without = dataclasses.replace(second, image=None)
    assert "guided" not in plain.match(first, without).milliseconds


def two_walls(image: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """The image folded along its middle like a corner of a room, and the homographies."""
    height, width = image.shape
    middle = width // 2
    corners = np.array([[0, 0], [middle, 0], [middle, height], [0, height]], np.float32)
    left = np.array([[0, 60], [130, 10], [130, 310], [0, 260]], np.float32)
    right = np.array([[130, 10], [270, 70], [270, 250], [130, 310]], np.float32)
    H0 = cv2.getPerspectiveTransform(corners, left)
    H1 = cv2.getPerspectiveTransform(corners + np.float32([middle, 0]), right)
    folded = cv2.warpPerspective(image, H1, (270, height))
    folded[:, :130] = cv2.warpPerspective(image, H0, (270, height))[:, :130]
    return folded, (H0, H1)


def weak_pair(photograph: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A photograph, and a dark, blurred and noisy copy of its right part beside another one."""
    rng = np.random.default_rng(0)
    second = np.roll(photograph[::-1], 90, 1).copy()
    second[:, 300:] = photograph[:, 300:]
    second = cv2.GaussianBlur(second, (0, 0), 1.2) * 0.3
    return photograph, np.clip(second + rng.normal(0, 10, second.shape), 0, 255).astype(np.uint8)


def test_a_weak_pair_is_matched_with_more_keypoints(
    searching: Session, photograph: np.ndarray
) -> None:
    pair, few = weak_pair(photograph), searching.with_settings(max_keypoints=256)
    dense = few(*pair)
    assert dense.search is not None
    assert max(len(dense.features0), len(dense.features1)) <= 256
    stored = few.with_stored_features()(*pair)
    assert num_true(dense, np.eye(3)) > 1.2 * num_true(stored, np.eye(3))


def test_features_of_another_number_of_keypoints_stay(
    searching: Session, photograph: np.ndarray
) -> None:
    """Nothing is left out of features with more keypoints than the session extracts."""
    features = [searching.extract(image) for image in weak_pair(photograph)]
    result = searching.with_settings(max_keypoints=128).match(*features)
    assert len(result.features0) > 128
    easy = [searching.extract(image) for image in (photograph, photograph[10:])]
    again = searching.with_settings(max_keypoints=128).match(*easy)
    assert again.search is None
    np.testing.assert_array_equal(again.features0.keypoints, easy[0].keypoints)


def test_kept_output_of_the_network_gives_the_same_features(
    searching: Session, photograph: np.ndarray
) -> None:
    pair, few = weak_pair(photograph), searching.with_settings(max_keypoints=256)
    assert few._search is not None
    features = [few.extract(image) for image in pair]
    kept = few.match(*features)
    few._search.pipeline._kept.clear()
    again = few.match(*features)
    np.testing.assert_array_equal(kept.matches.points1, again.matches.points1)
    np.testing.assert_array_equal(kept.features0.keypoints, again.features0.keypoints)
    for image in [photograph] * 5:
        few.extract(image.copy())
    assert len(few._search.pipeline._kept) == 2


def test_the_network_does_not_run_again_at_a_working_size(
    searching: Session, photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = np.kron(photograph, np.ones((3, 3), np.uint8))  # 1440×960, reduced to 1024
    assert searching._search is not None
    pipeline = searching._search.pipeline
    features = searching.extract(large)
    view = View.resized(large, pipeline.shrink_factor(large), 0)
    runs: list[object] = []
    monkeypatch.setattr(pipeline._dense, "extract", runs.append)
    dense = pipeline.extract_dense(view.image, features.image)
    assert not runs
    assert 512 < len(dense) <= 1024
    back = view.back(dense.keypoints[:512])
    np.testing.assert_allclose(back, features.keypoints, atol=0.01)


def test_a_weak_pair_gets_keypoints_of_low_scores(photograph: np.ndarray) -> None:
    """`high_keypoint_threshold` limits the keypoints of an easy pair, as with `balanced`."""
    limits = {"high_keypoint_threshold": 1.0, "high_threshold_after": 100}
    few = load("fast", threads=1, max_keypoints=400, keypoint_threshold=0.001, **limits)
    assert few._search is not None
    assert len(few.extract(photograph)) == 100
    dense = few._search.pipeline.extract_dense(photograph)
    assert 400 < len(dense) <= 800
    assert dense.scores.min() > 0.001


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2048),  # twice the 1024 of the model
        ({"max_keypoints": 2048}, 2048),  # no more of them, but those of low scores
        ({"max_keypoints": 2048, "keypoint_threshold": 0.001}, None),  # replaces both limits
        ({"max_keypoints": 4096}, 4096),
        ({"max_keypoints": -1}, -1),
        ({"max_keypoints": -1, "keypoint_threshold": 0.001}, None),
    ],
)
def test_when_a_weak_pair_gets_more_keypoints(settings: Any, expected: int | None) -> None:
    session = load("balanced", threads=1, **settings)
    assert session._search is not None
    pipeline = session._search.pipeline
    assert pipeline.is_dense == (expected is not None)
    assert pipeline.max_dense == (expected or session.processing.max_keypoints)
    stored = session.with_stored_features()._search
    assert stored is not None and not stored.pipeline.is_dense
    assert stored.pipeline.max_dense == session.processing.max_keypoints


def overlaid(image: np.ndarray) -> np.ndarray:
    """An image with a pattern in its lower 96 rows, as of a display on the lens."""
    pattern = np.random.default_rng(3).uniform(0, 255, (12, 60)).astype(np.uint8)
    result = image.copy()
    result[-96:] = cv2.resize(pattern, (image.shape[1], 96), interpolation=cv2.INTER_NEAREST)
    return result


@pytest.mark.parametrize("degrees", [0, 180])
def test_a_search_finds_nothing_under_a_mask(
    degrees: int, searching: Session, photograph: np.ndarray
) -> None:
    """The masked pattern is upright in both images, and the scene is turned."""
    turned, H = rotated(photograph, degrees)
    dark = np.clip(turned * 0.4, 0, 255).astype(np.uint8)
    mask = np.full(photograph.shape, 255, np.uint8)
    mask[-96:] = 0
    pair = overlaid(photograph), overlaid(dark)
    features = [searching.extract(image, mask=mask) for image in pair]
    result = searching.match(*features)
    assert result.search is not None or degrees == 0
    assert num_true(result, H) > 100
    for found in (result.features0, result.features1):
        assert found.mask is not None and len(found) <= 512
        x, y = found.keypoints.round().astype(int).T
        assert (mask[y, x] > 0).all()


def test_one_image_may_have_two_masks(searching: Session, photograph: np.ndarray) -> None:
    left, right = np.zeros((2, *photograph.shape), np.uint8)
    left[:, :240], right[:, 240:] = 255, 255
    result = searching.match(
        searching.extract(photograph, mask=left), searching.extract(photograph, mask=right)
    )
    assert (result.features0.keypoints[:, 0] < 240).all()
    assert (result.features1.keypoints[:, 0] > 239).all()


def test_further_planes_add_matches(plain: Session, photograph: np.ndarray) -> None:
    folded, (H0, H1) = two_walls(photograph)
    result = plain(photograph, folded)
    counts, precisions = [], []
    for max_planes in (0, 2):
        config = SearchConfig(max_planes=max_planes)
        found = Search(SessionPipeline(plain), config).improve(result, always=True)
        counts.append(num_true(found, H0) + num_true(found, H1))
        precisions.append(counts[-1] / len(found.matches))
    assert counts[1] > counts[0]
    assert precisions[1] > 0.9


def test_unrelated_and_blank_images(searching: Session, photographs: dict[str, np.ndarray]) -> None:
    result = searching(photographs["camera"], photographs["astronaut"])
    assert len(result.matches) < 40
    blank = np.full((240, 320), 90, np.uint8)
    assert len(searching(blank, photographs["camera"]).matches) == 0
    assert len(searching(blank, blank).matches) == 0
    tiny = photographs["camera"][:20, :20]
    assert len(searching(tiny, photographs["camera"]).matches) <= 20


def test_without_images_there_is_no_search(searching: Session, photograph: np.ndarray) -> None:
    turned, _ = rotated(photograph, 180)
    features = [
        dataclasses.replace(searching.extract(image), image=None) for image in (photograph, turned)
    ]
    assert searching.match(*features).search is None


def test_the_same_pair_gives_the_same_result(searching: Session, photograph: np.ndarray) -> None:
    turned, _ = rotated(photograph, 180)
    first, second = searching(photograph, turned), searching(photograph, turned)
    np.testing.assert_array_equal(first.matches.points1, second.matches.points1)
    fresh = load("fast", threads=1, search="auto")(photograph, turned)
    np.testing.assert_array_equal(first.matches.points1, fresh.matches.points1)


def test_a_working_size_applies(photograph: np.ndarray) -> None:
    large = cv2.resize(photograph, None, fx=2, fy=2)
    turned, H = rotated(large, 180)
    result = load("fast", threads=1, search="auto", resize=320)(large, turned)
    assert result.search is not None
    assert num_true(result, H) > 100
    assert result.features1.image_size == (960, 640)


def test_limits_are_pixels_of_reduced_images(
    photograph: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The homographies are estimated in the frame of the working size, whatever the image."""
    large = cv2.resize(photograph, (1920, 1280), interpolation=cv2.INTER_AREA)
    turned, H = rotated(large, 180)
    extents: list[float] = []
    estimate = search.quick_homography

    def noted(points0: np.ndarray, points1: np.ndarray, tolerance: float) -> Any:
        extents.append(max(points0.max(), points1.max()))
        return estimate(points0, points1, tolerance)

    monkeypatch.setattr(search, "quick_homography", noted)
    result = load("fast", threads=1, search="auto")(large, turned)
    assert num_true(result, H) > 100
    assert extents
    assert 512 < max(extents) < 1024


def test_the_description_names_the_search(plain: Session, searching: Session) -> None:
    assert searching.describe()["matcher"]["search"] == "auto"
    assert plain.fingerprint() != searching.fingerprint()
    again = searching.with_settings(max_keypoints=99).with_threads(1)
    assert again.search == "auto"
    assert again.describe()["matcher"]["search"] == "auto"
    assert searching.with_search("off").fingerprint() == plain.fingerprint()


def test_the_mode_is_checked() -> None:
    assert load("fast").search == "auto"
    assert load("fast", matcher="nn").search == "off"
    assert load(features="sift", matcher="nn").search == "off"
    assert load(features="sift", matcher="nn", search="auto").search == "auto"
    assert load("fast", search="always").search == "always"
    with pytest.raises(ConfigError, match="search must be one of off, auto, always"):
        load("fast").with_search("on")  # type: ignore[arg-type]


# --- views ----------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_points_of_a_rotated_view_come_back_exactly(turns: int, photograph: np.ndarray) -> None:
    view = View.resized(photograph, 1.0, turns)
    height, width = view.image.shape
    points = np.array([[3, 7], [width - 1, 0], [0, height - 1], [11, 40]], np.float32)
    back = view.back(points)
    for (x, y), (u, v) in zip(points.astype(int), back, strict=True):
        assert view.image[y, x] == photograph[round(float(v)), round(float(u))]
    np.testing.assert_array_equal(back, back.round())


def test_only_the_part_of_a_view_that_shows_the_original_is_extracted(
    plain: Session, photograph: np.ndarray
) -> None:
    shift = np.array([[1.0, 0, 205], [0, 1, 0], [0, 0, 1]])
    view = View.warped(photograph, shift, photograph.shape)
    height, width = photograph.shape
    assert view.box == (184, 0, width, height)  # a multiple of 8, at least 16 px before the image
    sizes = []

    def extract(image: np.ndarray) -> Features:
        sizes.append(image.shape)
        return plain.extract(image)

    features = view.extract(extract, margin=6)
    assert sizes == [(height, width - 184)]
    assert features.image is view.image and features.image_size == (width, height)
    assert features.keypoints[:, 0].min() >= 211
    np.testing.assert_allclose(view.from_original, shift, atol=1e-9)
    whole = view.keep_inside(plain.extract(view.image), margin=6)
    gaps = np.linalg.norm(features.keypoints[:, None] - whole.keypoints, axis=2).min(1)
    assert len(features) > 50 and np.mean(gaps < 0.5) > 0.8


@pytest.mark.parametrize(
    "H",
    [
        np.array([[1.0, 0, 0], [0, 1, 0], [-0.01, 0, 1]]),  # the horizon crosses the original
        np.array([[1.0, 0, 9000], [0, 1, 0], [0, 0, 1]]),  # the view does not show the original
        np.eye(3),
    ],
)
def test_a_view_without_a_box_of_its_own_is_extracted_as_a_whole(
    H: np.ndarray, photograph: np.ndarray
) -> None:
    height, width = photograph.shape
    assert View.warped(photograph, H, photograph.shape).box == (0, 0, width, height)


@pytest.mark.parametrize(("degrees", "factor"), [(0, 1), (30, 0.5), (-90, 2), (170, 1.5)])
def test_relative_view(degrees: float, factor: float) -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 400, (60, 2)).astype(np.float32)
    c, s = factor * np.cos(np.radians(degrees)), factor * np.sin(np.radians(degrees))
    there = points @ np.array([[c, s], [-s, c]], np.float32) + 7
    there[:12] = rng.uniform(0, 400, (12, 2))  # wrong matches
    matches = Matches(
        indices=np.stack((np.arange(60),) * 2, 1),
        scores=np.ones(60, np.float32),
        points0=points,
        points1=there.astype(np.float32),
        refined=np.zeros(60, np.bool_),
    )
    found = relative_view(matches)
    assert found == (pytest.approx(degrees, abs=2), pytest.approx(factor, rel=0.02))


def test_maps_close_to_a_translation_are_mild() -> None:
    points = np.array([[0, 0], [400, 0], [0, 300], [400, 300], [200, 150]], np.float32)
    turn = np.vstack([cv2.getRotationMatrix2D((200, 150), 30, 1), [0, 0, 1]])
    shear = np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]])
    tilt = np.array([[1.0, 0, 0], [0, 1, 0], [1e-3, 0, 1]])
    shift = np.array([[1.0, 0.02, 9], [-0.02, 1.05, 4], [0, 0, 1]])
    assert is_mild(shift, points, 1.15, 15)
    for H in (turn, shear, tilt, np.diag([2.0, 2, 1])):
        assert not is_mild(H, points, 1.15, 15)


def test_scales() -> None:
    assert local_scale(np.diag([2.0, 2.0, 1.0]), np.zeros(2)) == pytest.approx(2)
    result = load("fast", threads=1)(np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8))
    assert relative_view(result.matches) == (0.0, 1.0)


def test_a_higher_maximum_finds_no_fewer_matches(photograph: np.ndarray) -> None:
    turned, _ = rotated(photograph, 135)
    counts = []
    for limit in (1024, 4096, -1):
        session = load("balanced", threads=1, max_keypoints=limit)
        counts.append(len(session(photograph, turned).matches))
    assert counts == sorted(counts)


def test_an_image_without_keypoints_is_not_searched(
    searching: Session, photograph: np.ndarray
) -> None:
    result = searching(photograph, np.full(photograph.shape, 90, np.uint8))
    assert len(result.features1) == 0
    assert "search" not in result.milliseconds


def test_matches_of_other_planes_are_a_result_of_the_search(photograph: np.ndarray) -> None:
    """The right half moves as another plane; its matches have keypoints of their own."""
    H = np.array([[1.25, 0.1, -60], [0, 1.2, -30], [0, 0, 1]])
    height, width = photograph.shape
    second = cv2.warpPerspective(photograph, H, (width, height))
    second[:, : width // 2] = photograph[:, : width // 2]
    session = load("fast", threads=1, search="always")
    result = session(photograph, second)
    assert not np.array_equal(result.features0.keypoints, session.extract(photograph).keypoints)
    assert result.search is not None and result.search.warps == 1

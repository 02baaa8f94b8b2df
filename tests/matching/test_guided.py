"""Pairs that one homography explains: alignment, filter and guided matching."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import cv2
import numpy as np
import pytest

from featherglue.geometry.epipolar import sampson_distances
from featherglue.geometry.local_optimization import optimize_fundamental
from featherglue.geometry.projection import warp_points
from featherglue.geometry.quick_estimates import quick_fundamental
from featherglue.matching.guided import complete, complete_plane, is_incomplete
from featherglue.matching.guided_pair import ADDED_CONFIDENCE, Candidates, GuidedPair
from featherglue.matching.guided_plane import PlaneMatchingConfig, match_plane
from featherglue.matching.guided_scene import SceneMatchingConfig, match_scene, move_to_lines
from featherglue.matching.plane_fit import PlaneConfig
from featherglue.matching.scratch import Scratch
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult

H = np.array([[0.98, -0.05, 12], [0.04, 1.02, -7], [1e-5, 2e-5, 1]])
SETTINGS = ProcessingConfig(working_size=640)


def features(points: np.ndarray, descriptors: np.ndarray) -> Features:
    return Features(
        keypoints=points.astype(np.float32),
        scores=np.full(len(points), 0.5, np.float32),
        descriptors=descriptors,
        image_size=(640, 480),
    )


def matches_of(first: Features, second: Features, indices: np.ndarray) -> Matches:
    return Matches(
        indices=indices,
        scores=np.full(len(indices), 0.9, np.float32),
        points0=first.keypoints[indices[:, 0]],
        points1=second.keypoints[indices[:, 1]],
        refined=np.zeros(len(indices), np.bool_),
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
    matches = matches_of(first, second, indices)
    return first, second, matches


def pair_of(first: Features, second: Features, matches: Matches) -> MatchResult:
    return MatchResult(features0=first, features1=second, matches=matches, milliseconds={})


def matched(first: Features, second: Features, matches: Matches) -> Matches:
    """The matches of a pair that one homography explains."""
    result = pair_of(first, second, matches)
    found = complete_plane(result, SETTINGS, Scratch())
    assert found is not result
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
    assert (found.scores[new] <= ADDED_CONFIDENCE).all()
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


@pytest.mark.parametrize("num_matched", [0, 3, PlaneConfig().min_matches - 1])
def test_few_matches_predict_nothing(num_matched: int) -> None:
    result = pair_of(*scene(60, num_matched))
    assert complete_plane(result, SETTINGS, Scratch()) is result


def test_all_keypoints_may_be_matched_already() -> None:
    first, second, matches = scene(40, 40)
    assert len(matched(first, second, matches)) >= 38


def test_matches_that_show_depth_stay() -> None:
    first, second, matches = scene(120, 120)
    nearer = matches.points0[:, 0] < 200  # a second plane, with parallax along x
    points1 = matches.points1 + np.float32((25, 0)) * nearer[:, None]
    keypoints1 = second.keypoints.copy()
    keypoints1[matches.indices[:, 1]] = points1
    found = complete_plane(
        pair_of(
            first,
            dataclasses.replace(second, keypoints=keypoints1),
            dataclasses.replace(matches, points1=points1.astype(np.float32)),
        ),
        SETTINGS,
        Scratch(),
    )
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


def test_keypoints_near_their_predicted_places_match_where_the_images_do_not_agree(
    photographs: dict[str, np.ndarray],
) -> None:
    first, second, matches = scene(100, 40)
    first, second = textured_pair(photographs, first, second)
    assert second.image is not None
    image1 = second.image.copy()
    image1[:, 320:] = np.random.default_rng(0).integers(0, 256, (480, 320), np.uint8)
    free = ~np.isin(np.arange(100), matches.indices[:, 1])
    points = second.keypoints + np.float32((1, -1)) * free[:, None]
    found = matched(first, dataclasses.replace(second, image=image1, keypoints=points), matches)
    unaligned = ~np.isin(found.indices[:, 0], matches.indices[:, 0]) & ~found.refined
    assert unaligned.sum() >= 0.9 * np.sum(points[free, 0] > 340) > 20
    distance = np.linalg.norm(warp_points(found.points0, H) - points[found.indices[:, 1]], axis=1)
    assert np.mean(errors(found)[unaligned]) < 0.7 * np.mean(distance[unaligned])


def residual(found: Matches) -> float:
    """Maximum distance of the matches from the homography that fits them best."""
    best = cv2.findHomography(found.points0, found.points1)[0]
    return float(np.linalg.norm(warp_points(found.points0, best) - found.points1, axis=1).max())


def completed(first: Features, second: Features, matches: Matches) -> Matches:
    return complete(pair_of(first, second, matches), SETTINGS, Scratch()).matches


def test_points_of_a_plane_move_to_where_all_matches_agree(
    photographs: dict[str, np.ndarray],
) -> None:
    first, second, matches = scene(100, 40)
    first, second = textured_pair(photographs, first, second)
    found = completed(first, second, matches)
    assert len(found) > 80
    assert residual(found) < 1e-2
    assert errors(found).max() < 0.3
    assert residual(matched(first, second, matches)) > 0.05  # further matches may follow


@pytest.mark.parametrize("missing", [0, 1])
def test_points_of_few_matches_do_not_move(
    missing: int, photographs: dict[str, np.ndarray]
) -> None:
    first, second, matches = scene(60, 60)
    pair = GuidedPair.of(
        pair_of(*textured_pair(photographs, first, second), matches), SETTINGS, Scratch()
    )
    limit = len(matches) + missing  # all matches are near the homography
    config = PlaneMatchingConfig(min_moving_matches=limit, max_deviation=99)
    found = match_plane(pair, matches, config, moves=True)
    assert found is not None
    assert len(found) == len(matches)
    assert (residual(found) < 1e-2) == (missing == 0)


def test_points_that_deviate_as_their_neighbors_do_not_move(
    photographs: dict[str, np.ndarray],
) -> None:
    """A curved surface: most of it is within the tolerance of a plane."""
    first, second, matches = scene(200, 200)
    first, second = textured_pair(photographs, first, second)
    assert second.image is not None
    y, x = np.mgrid[:480, :640].astype(np.float32)
    bent = cv2.remap(second.image, x + 0.5 * np.sin(x / 60), y, cv2.INTER_CUBIC)
    found = completed(first, dataclasses.replace(second, image=bent), matches)
    assert len(found) > 150
    assert residual(found) > 0.2


def test_refining_again_is_more_accurate(photographs: dict[str, np.ndarray]) -> None:
    first, second, matches = scene(100, 100)
    pair = GuidedPair.of(
        pair_of(*textured_pair(photographs, first, second), matches), SETTINGS, Scratch()
    )
    once = pair.refine_again(matches)
    twice = pair.refine_again(once)
    assert np.median(errors(once)) < 0.5 * np.median(errors(matches))
    assert np.mean(errors(twice)) <= 1.05 * np.mean(errors(once))


def test_without_images_or_refinement_points_stay() -> None:
    result = pair_of(*scene(60, 40))
    assert GuidedPair.of(result, SETTINGS, Scratch()).refine_again(result.matches) is result.matches


def test_a_pair_is_incomplete_if_its_matches_are_few_or_uncertain() -> None:
    first, second, matches = scene(100, 70)  # with a confidence of 0.9
    assert not is_incomplete(pair_of(first, second, matches))
    uncertain = dataclasses.replace(matches, scores=np.full(70, 0.8, np.float32))
    assert is_incomplete(pair_of(first, second, uncertain))
    assert is_incomplete(pair_of(*scene(100, 0)))


@dataclass(frozen=True)
class Depth:
    """A textured ramp, seen by a camera that moved along x: the parallax grows with y."""

    result: MatchResult
    partners: np.ndarray  # (N,) index in image 1 of each keypoint of image 0


def parallax(points: np.ndarray) -> np.ndarray:
    """Points (N, 2) of image 1: the ramp is steeper in the lower half."""
    y = points[:, 1:]
    shift = np.where(y < 240, 0.02 * y, 0.02 * 240 + 0.2 * (y - 240))
    return points + np.concatenate([shift, np.zeros_like(shift)], axis=1)


def depth_scene(photograph: np.ndarray, count: int = 300, num_matched: int = 120) -> Depth:
    image0 = cv2.resize(photograph, (640, 480), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[:480, :640].astype(np.float32)
    back = x - (parallax(np.stack((x, y), -1).reshape(-1, 2))[:, 0].reshape(x.shape) - x)
    image1 = cv2.remap(image0, back, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    rng = np.random.default_rng(3)
    corners = cv2.goodFeaturesToTrack(image0, count, 0.001, 9)[:, 0]
    corners = corners[(corners > 20).all(1) & (corners < (560, 460)).all(1)]
    count = len(corners)
    descriptors = rng.normal(size=(count, 64)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    noise = rng.uniform(-0.7, 0.7, (count, 2))
    order = rng.permutation(count)
    first = dataclasses.replace(features(corners, descriptors), image=image0)
    points1 = (parallax(corners) + noise)[order]
    second = dataclasses.replace(features(points1, descriptors[order]), image=image1)
    partners = np.argsort(order)
    indices = np.stack((np.arange(count), partners), 1)
    indices = indices[np.sort(rng.choice(count, num_matched, replace=False))]
    matches = matches_of(first, second, indices)
    return Depth(pair_of(first, second, matches), partners)


def test_a_scene_with_depth_gets_partners_along_epipolar_lines(
    photographs: dict[str, np.ndarray],
) -> None:
    given = depth_scene(photographs["coffee"])
    assert complete_plane(given.result, SETTINGS, Scratch()) is given.result
    found = complete(given.result, SETTINGS, Scratch()).matches
    new = ~np.isin(found.indices[:, 0], given.result.matches.indices[:, 0])
    assert new.sum() > 0.5 * (len(given.partners) - 120)
    assert found.refined[new].all()
    assert (found.scores[new] <= ADDED_CONFIDENCE).all()
    for column in (0, 1):
        assert len(np.unique(found.indices[:, column])) == len(found)
    true = given.partners[found.indices[new, 0]] == found.indices[new, 1]
    assert true.mean() > 0.98
    deviation = np.linalg.norm(parallax(found.points0) - found.points1, axis=1)
    assert np.median(deviation[new]) < 0.2


def two_views(noise: float, distortion: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matched points (150, 2) of both views of a curved surface, and the true ones of view 1."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform((-1, -0.75), (1, 0.75), (150, 2)).T
    points = np.stack((x, y, 2 + 0.5 * np.sin(3 * x) + 0.4 * y * y), axis=1)
    R, _ = cv2.Rodrigues(np.array([0.02, -0.1, 0.03]))
    views = [points[:, :2] / points[:, 2:]]
    moved = points @ R.T + (0.4, 0.1, 0.05)
    views.append(moved[:, :2] / moved[:, 2:])
    for i, rays in enumerate(views):
        bent = rays * (1 + distortion * np.square(rays).sum(1, keepdims=True))
        views[i] = (500 * bent + (320, 240)).astype(np.float32)
    seen = views[1] + rng.normal(scale=noise, size=(150, 2))
    return views[0], seen.astype(np.float32), views[1]


def lines_of(points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    found = quick_fundamental(points0, points1, 2.0)
    assert found is not None
    return found[0]


def test_points_move_onto_the_lines_that_all_matches_determine() -> None:
    points0, points1, truth = two_views(noise=0.3)
    moved = move_to_lines(lines_of(points0, points1), points0, points1, SceneMatchingConfig())
    F = optimize_fundamental(lines_of(points0, truth), points0, truth, 2.0)
    before, after = (np.median(sampson_distances(F, points0, p)) for p in (points1, moved))
    assert after < 0.6 * before
    errors_before, errors_after = (np.linalg.norm(p - truth, axis=1) for p in (points1, moved))
    assert np.mean(errors_after) < 0.9 * np.mean(errors_before)
    assert np.linalg.norm(moved - points1, axis=1).max() < 1


def test_a_wrong_match_near_the_epipole_does_not_move() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform((-1, -0.75, 2), (1, 0.75, 4), (150, 3))
    t = np.array([0.02, 0.01, -0.4])  # forward: the epipole is in the image
    moved = points + t
    views = [500 * p[:, :2] / p[:, 2:] + (320, 240) for p in (points, moved)]
    views[1] += rng.normal(scale=0.3, size=(150, 2))
    epipole = 500 * t[:2] / t[2] + (320, 240)
    views[0][0], views[1][0] = epipole + 0.2, epipole + np.array([40, -60])
    points0, points1 = (view.astype(np.float32) for view in views)
    found = move_to_lines(lines_of(points0, points1), points0, points1, SceneMatchingConfig())
    distance = np.linalg.norm(found - points1, axis=1)
    assert 0 < distance.max() < 1.5


def test_points_that_stay_are_not_rounded(photographs: dict[str, np.ndarray]) -> None:
    given = depth_scene(photographs["coffee"]).result
    pair = dataclasses.replace(
        GuidedPair.of(given, SETTINGS, Scratch()), factors=(0.7, 0.7), adds=False
    )
    config = SceneMatchingConfig(num_rounds=1, min_move_limit=0.02, move_limit=0.5)
    found = match_scene(pair, given.matches, config)
    still = match_scene(pair, given.matches, dataclasses.replace(config, min_moving_matches=10**6))
    same = (found.points1 == still.points1).all(1)
    assert 0.2 < same.mean() < 0.9  # without added matches, too, points move


def test_a_wrong_match_does_not_move() -> None:
    points0, points1, _ = two_views(noise=0.1)
    points1[:10] += 30 * np.random.default_rng(1).normal(size=(10, 2))
    moved = move_to_lines(lines_of(points0, points1), points0, points1, SceneMatchingConfig())
    stays = (moved == points1).all(1)
    assert stays[:10].sum() >= 9
    assert stays[10:].sum() <= 7


@pytest.mark.parametrize("case", ["distortion", "few matches", "few agree"])
def test_points_stay_if_no_fundamental_matrix_is_certain(case: str) -> None:
    points0, points1, _ = two_views(0.05, distortion=-0.6 if case == "distortion" else 0.0)
    F = lines_of(points0, points1)
    if case == "few matches":
        points0, points1 = points0[:20], points1[:20]
    if case == "few agree":
        points1[:60] += 30 * np.random.default_rng(1).normal(size=(60, 2))
    assert move_to_lines(F, points0, points1, SceneMatchingConfig()) is points1


@pytest.mark.parametrize("working_size", [640, 320])
def test_matches_of_a_scene_with_depth_move_onto_their_lines(
    photographs: dict[str, np.ndarray], working_size: int
) -> None:
    given = depth_scene(photographs["coffee"]).result
    settings = dataclasses.replace(SETTINGS, working_size=working_size)
    pair = GuidedPair.of(given, settings, Scratch())
    deviation = {}  # the lines are horizontal
    for limit in (32, 10**6):
        found = match_scene(pair, given.matches, SceneMatchingConfig(min_moving_matches=limit))
        deviation[limit] = float(np.median(np.abs(found.points1[:, 1] - found.points0[:, 1])))
    assert deviation[32] < 0.5 * deviation[10**6]


def test_without_images_a_scene_with_depth_keeps_its_matches(
    photographs: dict[str, np.ndarray],
) -> None:
    given = depth_scene(photographs["coffee"]).result
    without = dataclasses.replace(given, features1=dataclasses.replace(given.features1, image=None))
    assert complete(without, SETTINGS, Scratch()).matches is given.matches


def test_matches_without_a_common_geometry_get_no_others(
    photographs: dict[str, np.ndarray],
) -> None:
    given = depth_scene(photographs["coffee"])
    wrong = given.result.matches.indices.copy()
    wrong[:, 1] = np.random.default_rng(0).permutation(wrong[:, 1])
    matches = dataclasses.replace(
        given.result.matches,
        indices=wrong,
        points1=given.result.features1.keypoints[wrong[:, 1]],
    )
    found = complete(dataclasses.replace(given.result, matches=matches), SETTINGS, Scratch())
    assert len(found.matches) == len(matches)


def test_candidates_are_all_keypoints_within_the_radius() -> None:
    rng = np.random.default_rng(0)
    places = rng.uniform(0, 100, (40, 2))
    places[3] = np.nan, 50
    places[4] = np.inf, np.inf
    keypoints = rng.uniform(0, 100, (60, 2)).astype(np.float32)
    radius = rng.uniform(1, 30, 40)
    found = Candidates.near(places, keypoints, radius)
    squares = np.square(places[:, None] - keypoints).sum(2) / np.square(radius)[:, None]
    expected = np.argwhere(squares < 1)
    assert sorted(zip(found.rows, found.columns, strict=True)) == sorted(map(tuple, expected))
    np.testing.assert_allclose(found.squares, squares[found.rows, found.columns])
    assert not len(Candidates.near(places[:0], keypoints, 5.0).rows)
    assert not len(Candidates.near(places, keypoints[:0], 5.0).rows)


def test_only_the_best_candidates_of_both_keypoints_are_chosen() -> None:
    near = Candidates(np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2]), np.zeros(5))
    chosen = near.mutually_best(np.array([0.9, 0.8, 0.7, 0.95, 0.1]))
    np.testing.assert_array_equal(chosen, [False, False, False, True, True])
    equal = near.mutually_best(np.zeros(5))
    for keypoints in (near.rows[equal], near.columns[equal]):
        assert len(np.unique(keypoints)) == len(keypoints)


def test_a_match_threshold_above_their_confidence_leaves_additions_out(
    photographs: dict[str, np.ndarray],
) -> None:
    strict = dataclasses.replace(SETTINGS, match_threshold=0.5)
    first, second, matches = scene(100, 40)
    result = pair_of(*textured_pair(photographs, first, second), matches)
    for given in (result, depth_scene(photographs["coffee"]).result):
        found = complete(given, strict, Scratch()).matches
        assert len(found) <= len(given.matches)
        assert (found.scores > 0.5).all()
        assert len(complete(given, SETTINGS, Scratch()).matches) > len(found)


@pytest.mark.parametrize("shape", ["one point", "line", "one point in image 1"])
def test_degenerate_matches_are_no_error(shape: str, photographs: dict[str, np.ndarray]) -> None:
    first, second, matches = scene(100, 60)
    points = [matches.points0.copy(), matches.points1.copy()]
    for i, view in enumerate(points):
        if shape == "line":
            view[:, 1] = view[:, 0] / 2
        elif shape == "one point" or i == 1:
            view[:] = 100
    first, second = (
        dataclasses.replace(f, keypoints=np.where(np.arange(100)[:, None] < 60, p, f.keypoints))
        for f, p in (
            (first, np.pad(points[0], ((0, 40), (0, 0)))),
            (second, second.keypoints),
        )
    )
    moved = dataclasses.replace(matches, points0=points[0], points1=points[1])
    result = pair_of(*textured_pair(photographs, first, second), moved)
    found = complete(result, SETTINGS, Scratch()).matches
    assert np.isfinite(found.points1).all()

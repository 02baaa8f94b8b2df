"""Suites on synthetic images with known answers; failures, caches, several processes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scenes import Array, Oracle, pair_line, project, texture, write_sequence

from featherglue.errors import ImageError, PairListError, UsageError
from featherglue.evaluation import (
    Evaluation,
    HomographyConfig,
    HomographySuite,
    HPatchesSuite,
    MatchResult,
    PoseConfig,
    PoseSuite,
    SessionOpener,
    draw_worst,
    evaluate,
    markdown_table,
)
from featherglue.evaluation.openers import describe
from featherglue.evaluation.pair_lists import (
    read_homography_pairs,
    read_hpatches_pairs,
    read_pose_pairs,
)
from featherglue.evaluation.views import PoseViews, pose_views, turn_camera
from featherglue.session import load
from featherglue.types import Features, Matches

SIZE = (160, 120)
SIFT = SessionOpener(features="sift", matcher="nn", max_keypoints=200)
WriteList = Callable[[Array], Path]


def homographies(photos: Path, path: Path | None, **options: Any) -> HomographySuite:
    return HomographySuite(folder=photos, pair_file=path, size=SIZE, **options)


# Homographies


def test_an_oracle_is_perfect(photos: Path, write_list: WriteList, shift_and_turn: Array) -> None:
    suite = homographies(photos, write_list(shift_and_turn))
    found = evaluate(Oracle(shift_and_turn), suite)
    for figure in ("auc", "auc_lo", "auc_magsac", "auc_dlt"):
        assert set(found.summary[figure]) == {"5", "10", "25"}
        assert found.summary[figure]["5"] > 99.9
    assert (found.summary["precision"], found.summary["recall"]) == (100, 100)
    assert (found.summary["pairs"], found.summary["failures"]) == (3, 0)
    assert found.summary["matches"] == found.results[0].metrics["matches"] > 10


def test_the_identity(photos: Path, write_list: WriteList) -> None:
    suite = homographies(photos, write_list(np.eye(3)), photometric=False)
    found = evaluate(SIFT, suite)
    assert found.summary["auc"]["5"] > 99.9
    assert found.summary["precision"] == 100
    views = suite.views(suite.pairs()[0])
    assert np.array_equal(views.image0, views.image1)


def test_a_wrong_oracle_is_wrong(
    photos: Path, write_list: WriteList, shift_and_turn: Array
) -> None:
    moved = np.array([[1, 0, 8.0], [0, 1, 0], [0, 0, 1]]) @ shift_and_turn
    suite = homographies(photos, write_list(shift_and_turn))
    found = evaluate(Oracle(moved), suite)
    assert found.results[0].metrics["error"] == pytest.approx(8, abs=0.01)
    assert found.summary["auc"]["5"] == 0
    # A triangle up to the first error, a third of the pairs, at 8 px; all of them from there.
    assert found.summary["auc"]["10"] == pytest.approx(100 * (8 / 3 / 2 + 2) / 10, abs=0.1)
    assert (found.summary["precision"], found.summary["failures"]) == (0, 0)


def test_light_changes_by_seed_and_index(
    photos: Path, write_list: WriteList, shift_and_turn: Array
) -> None:
    path = write_list(shift_and_turn)
    first, again = (homographies(photos, path) for _ in range(2))
    other = homographies(photos, path, config=HomographyConfig(seed=1))
    plain = homographies(photos, path, photometric=False)
    tasks = first.pairs()
    changed = [first.views(task).image1 for task in tasks]
    for task, image in zip(tasks, changed, strict=True):
        assert np.array_equal(again.views(task).image1, image)
        warped = cv2.warpPerspective(first.views(task).image0, shift_and_turn, SIZE)
        assert np.array_equal(plain.views(task).image1, warped)
    assert any(
        not np.array_equal(other.views(task).image1, image)
        for task, image in zip(tasks, changed, strict=True)
    )
    assert any(
        not np.array_equal(plain.views(task).image1, image)
        for task, image in zip(tasks, changed, strict=True)
    )


def test_a_folder_alone_draws_homographies(photos: Path) -> None:
    first, again = (homographies(photos, None).pairs() for _ in range(2))
    assert [task.name for task in first] == ["a.png", "b.png", "c.png"]
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.H, b.H)
    assert not np.allclose(first[0].H, first[1].H)
    other = homographies(photos, None, config=HomographyConfig(seed=5)).pairs()
    assert not np.allclose(first[0].H, other[0].H)
    assert evaluate(SIFT, homographies(photos, None)).summary["pairs"] == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.png 1 0 0 0 1 0 0 0", "line 2: 9 tokens"),
        ("a.png 1 0 0 0 1 0 0 0 1 1", "line 2: 11 tokens"),
        ("a.png 1 0 0 0 one 0 0 0 1", "line 2: .*'one'"),
        ("a.png 1 0 0 0 nan 0 0 0 1", "line 2: .*finite"),
        ("a.png 1 0 0 1 0 0 0 0 1", "line 2: H is singular"),
        ("a.png 0 0 0 0 0 0 0 0 0", "line 2: H is singular"),
    ],
)
def test_malformed_homography_lists(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(PairListError, match=f"list.txt, {message}"):
        read_homography_pairs(tmp_path, path, SIZE)


def test_empty_and_missing_lists(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\n# nothing\n")
    for name, message in (("list.txt", "no homographies"), ("none.txt", "no such file")):
        with pytest.raises(PairListError, match=message):
            read_homography_pairs(tmp_path, tmp_path / name, SIZE)
    with pytest.raises(ImageError, match="no such folder"):
        read_homography_pairs(tmp_path / "none", tmp_path / "list.txt", SIZE)


# Failures


def test_failures_count(photos: Path, write_list: WriteList, shift_and_turn: Array) -> None:
    path = write_list(shift_and_turn)
    cv2.imwrite(str(photos / "a.png"), np.full((120, 160), 90, np.uint8))
    (photos / "b.png").unlink()
    found = evaluate(Oracle(shift_and_turn), homographies(photos, path, photometric=False))
    blank, missing, good = found.results
    assert "at least 4 matches" in blank.failure and not blank.unreadable
    assert "b.png: no such file" in missing.failure and missing.unreadable
    assert not good.failure
    for failed in (blank, missing):
        assert failed.metrics["error"] == failed.metrics["error_dlt"] == np.inf
        assert failed.metrics["precision"] == failed.metrics["recall"] == 0
    assert found.summary["failures"] == 2 and found.summary["unreadable"] == 1
    assert found.summary["precision"] == pytest.approx(100 / 3)
    assert found.summary["recall"] == pytest.approx(100 / 3)
    assert found.summary["auc"]["25"] == pytest.approx(100 / 3, abs=0.01)


def test_correct_matches_of_a_failed_pair_do_not_count(
    photos: Path, write_list: WriteList, shift_and_turn: Array
) -> None:
    class Three(Oracle):
        def match(self, features0: Features, features1: Features) -> MatchResult:
            whole = super().match(features0, features1)
            three = {name: value[:3] for name, value in vars(whole.matches).items()}
            return dataclasses.replace(whole, matches=Matches(**three))

    found = evaluate(Three(shift_and_turn), homographies(photos, write_list(shift_and_turn)))
    assert found.summary["failures"] == 3
    assert found.summary["matches"] == 3
    assert (found.summary["precision"], found.summary["recall"]) == (0, 0)


# HPatches


def test_hpatches(tmp_path: Path, shift_and_turn: Array) -> None:
    write_sequence(tmp_path / "i_light", np.eye(3), 1)
    write_sequence(tmp_path / "v_view", shift_and_turn, 2)
    (tmp_path / "v_view" / "6.ppm").unlink()
    suite = HPatchesSuite(folder=tmp_path)
    found = evaluate(Oracle(shift_and_turn), suite)
    summary = found.summary
    assert (summary["pairs"], summary["failures"]) == (10, 1)
    light, view = summary["illumination"], summary["viewpoint"]
    assert (light["pairs"], view["pairs"]) == (5, 5)
    assert set(summary["mma"]) == {str(t) for t in range(1, 11)}
    assert view["accuracy"] == {"1": 80, "3": 80, "5": 80}
    assert view["auc"]["1"] == pytest.approx(80, abs=1)
    assert view["mma"]["1"] == pytest.approx(80)
    assert view["precision"] == pytest.approx(80)
    # The oracle detects the same places everywhere, and thinks of another homography here.
    assert (light["repeatability"], light["localisation_error"]) == (100, 0)
    assert light["mma"]["1"] < 20 < light["mma"]["10"]
    assert light["accuracy"]["1"] == 0
    table = found.to_markdown().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:]] == [
        "oracle",
        "oracle, illumination",
        "oracle, viewpoint",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 0 0\n0 1\n0 0 1\n", "H_1_3, line 2: 2 numbers"),
        ("1 0 0\n0 1 0\n", "H_1_3, line 2: 2 lines"),
        ("1 0 0\n0 x 0\n0 0 1\n", "H_1_3, line 2: .*'x'"),
        ("1 0 0\n0 0 0\n0 0 1\n", "H_1_3.*singular"),
        (None, "H_1_3: no such file"),
    ],
)
def test_malformed_hpatches(tmp_path: Path, text: str | None, message: str) -> None:
    write_sequence(tmp_path / "i_x", np.eye(3), 0)
    path = tmp_path / "i_x" / "H_1_3"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(PairListError, match=message):
        read_hpatches_pairs(tmp_path)


def test_hpatches_without_sequences(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ImageError):
            read_hpatches_pairs(folder)


# Poses

K = np.array([[300.0, 0, 158.0], [0, 310.0, 121.0], [0, 0, 1]])


def pose(t: tuple[float, float, float]) -> Array:
    T = np.eye(4)
    T[:3, :3] = cv2.Rodrigues(np.array([0.1, -0.25, 0.05]))[0]
    T[:3, 3] = t
    return T


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


@pytest.mark.parametrize("times", [0, 1, 2, 3])
def test_a_turned_camera_sees_the_turned_image(times: int) -> None:
    skewed = K.copy()
    skewed[0, 1] = 4.0
    image = np.zeros((240, 320), np.uint8)
    point = np.array([0.4, -0.3, 2.0])
    x, y = (skewed @ point / point[2])[:2]
    image[round(y), round(x)] = 255
    turned, K_turned, turn = turn_camera(image, skewed, times)
    assert np.array_equal(turned, np.rot90(image, times))
    place = K_turned @ turn[:3, :3] @ point
    seen = np.argwhere(turned == 255)[0][::-1]
    assert np.abs(place[:2] / place[2] - seen).max() <= 0.5
    assert np.allclose(turn @ turn.T, np.eye(4))


@pytest.mark.parametrize("times", [1, 2, 3])
def test_turned_intrinsics_equal_superglues(times: int) -> None:
    """`rotate_intrinsics`, with w − 1 for w: our pixel centres lie at whole numbers."""
    (fx, _, cx), (_, fy, cy) = K[0], K[1]
    w, h = 319, 239
    expected = {
        1: [[fy, 0, cy], [0, fx, w - cx], [0, 0, 1]],
        2: [[fx, 0, w - cx], [0, fy, h - cy], [0, 0, 1]],
        3: [[fy, 0, h - cy], [0, fx, cx], [0, 0, 1]],
    }[times]
    _, found, turn = turn_camera(np.zeros((240, 320), np.uint8), K, times)
    assert np.allclose(found, expected)
    angle = np.deg2rad((0, 270, 180, 90)[times])
    c, s = np.cos(angle), np.sin(angle)
    assert np.allclose(turn[:3, :3], [[c, -s, 0], [s, c, 0], [0, 0, 1]])


def test_turned_pairs_agree_with_their_pose(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((240, 320), np.uint8))
    T = pose((1.0, 0.1, 0.2))
    (tmp_path / "pairs.txt").write_text(pair_line("a.png", "b.png", K, T, (1, 3)))
    (task,) = read_pose_pairs(tmp_path, tmp_path / "pairs.txt")
    views = pose_views(task)
    assert views.image0.shape == views.image1.shape == (320, 240)
    point = np.array([0.2, 0.3, 5.0])
    first = np.linalg.inv(K) @ K @ point  # camera 0 as the list has it
    _, _, turn0 = turn_camera(np.zeros((240, 320), np.uint8), K, 1)
    _, K1, turn1 = turn_camera(np.zeros((240, 320), np.uint8), K, 3)
    second = turn1[:3, :3] @ (T[:3, :3] @ first + T[:3, 3])
    moved = views.T_0to1 @ np.r_[turn0[:3, :3] @ first, 1]
    assert np.allclose(moved[:3], second)
    assert np.allclose(views.K1, K1)


def test_malformed_pose_lists(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    mirrored, stretched = np.diag([1.0, 1, -1, 1]), np.diag([2.0, 1, 1, 1])
    for line, message in (
        ("a.png b.png\n", "line 1: no intrinsics and pose"),
        ("a.png b.png 0 0 1 2\n", "line 1: 6 tokens"),
        (pair_line("a", "b", K, mirrored), "line 1: .*not a rotation"),
        (pair_line("a", "b", K, stretched), "line 1: .*not a rotation"),
        (pair_line("a", "b", K * 0, np.eye(4)), "line 1: K0 is singular"),
    ):
        path.write_text(line)
        with pytest.raises(PairListError, match=message):
            read_pose_pairs(tmp_path, path)


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


# Settings


@pytest.mark.parametrize(
    "make",
    [
        lambda: HomographyConfig(threshold=0),
        lambda: HomographyConfig(seed=-1),
        lambda: HomographyConfig(iterations=0),
        lambda: HomographyConfig(confidence=1.0),
        lambda: PoseConfig(threshold=-1),
        lambda: PoseConfig(seed=-1),
    ],
)
def test_settings_out_of_range(make: Callable[[], Any]) -> None:
    with pytest.raises(UsageError):
        make()


def test_unsuitable_calls(photos: Path, shift_and_turn: Array, tmp_path: Path) -> None:
    suite = homographies(photos, None)
    with pytest.raises(UsageError, match="jobs and limit"):
        evaluate(SIFT, suite, jobs=0)
    with pytest.raises(UsageError, match="extract and match"):
        evaluate(object(), suite)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="SessionOpener"):
        evaluate(Oracle(shift_and_turn), suite, jobs=2)
    nameless = Oracle(shift_and_turn)
    del nameless.description
    assert evaluate(nameless, suite, limit=1).model == {"name": "Oracle"}
    with pytest.raises(UsageError, match="description"):
        evaluate(nameless, suite, cache=tmp_path / "cache")


# Again, elsewhere, later


def plain(found: Evaluation) -> str:
    return json.dumps(found.to_dict(), allow_nan=False)


def test_runs_are_identical_whatever_the_jobs(photos: Path) -> None:
    suite = homographies(photos, None)
    first = plain(evaluate(SIFT, suite))
    assert plain(evaluate(SIFT, suite)) == first
    steps: list[tuple[int, int]] = []
    assert plain(evaluate(SIFT, suite, jobs=2, progress=lambda *at: steps.append(at))) == first
    assert steps == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_limit_takes_the_first_pairs(photos: Path) -> None:
    suite = homographies(photos, None)
    everything, two = evaluate(SIFT, suite), evaluate(SIFT, suite, limit=2)
    assert [result.metrics for result in two.results] == [
        result.metrics for result in everything.results[:2]
    ]


def test_resumes_where_it_stopped(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, write_list(shift_and_turn))
    expected = plain(evaluate(Oracle(shift_and_turn), suite))

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    stopped, resumed, idle = (Oracle(shift_and_turn) for _ in range(3))
    with pytest.raises(KeyboardInterrupt):
        evaluate(stopped, suite, cache=tmp_path / "cache", progress=stop)
    assert stopped.extractions == 4
    (log,) = (tmp_path / "cache").glob("homography-*.jsonl")
    with log.open("ab") as file:
        file.write(b'\n{"key": "cut o')
    assert plain(evaluate(resumed, suite, cache=tmp_path / "cache")) == expected
    assert resumed.extractions == 2
    assert plain(evaluate(idle, suite, cache=tmp_path / "cache")) == expected
    assert idle.extractions == 0


def test_features_are_kept_for_other_settings(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    path = write_list(shift_and_turn)
    cache = tmp_path / "cache"
    evaluate(Oracle(shift_and_turn), homographies(photos, path), cache=cache)
    stricter = homographies(photos, path, config=HomographyConfig(threshold=1.0))
    again, other = Oracle(shift_and_turn, name="new"), Oracle(shift_and_turn, count=90)
    expected = plain(evaluate(Oracle(shift_and_turn, name="new"), stricter))
    assert plain(evaluate(again, stricter, cache=cache)) == expected
    assert again.extractions == 0
    evaluate(other, stricter, cache=cache)
    assert other.extractions == 6
    damaged = next((cache / "features").glob("*/*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    for log in cache.glob("*.jsonl"):
        log.unlink()
    evaluate(again, stricter, cache=cache)
    assert again.extractions <= 1


def test_sessions_keep_what_they_extract(photos: Path, tmp_path: Path) -> None:
    suite = homographies(photos, None)
    expected = plain(evaluate(SIFT, suite))
    assert plain(evaluate(SIFT, suite, cache=tmp_path / "cache")) == expected
    for log in (tmp_path / "cache").glob("*.jsonl"):
        log.unlink()
    assert plain(evaluate(SIFT, suite, cache=tmp_path / "cache")) == expected  # refined too


def test_changed_and_mended_images_are_evaluated_again(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, write_list(shift_and_turn))
    cache = tmp_path / "cache"
    (photos / "b.png").rename(photos / "away.png")
    assert evaluate(Oracle(shift_and_turn), suite, cache=cache).summary["unreadable"] == 1
    (photos / "away.png").rename(photos / "b.png")
    cv2.imwrite(str(photos / "a.png"), texture(77))
    os.utime(photos / "a.png", ns=(1, 1))
    oracle = Oracle(shift_and_turn)
    assert evaluate(oracle, suite, cache=cache).summary["unreadable"] == 0
    assert oracle.extractions == 4


def test_models_are_told_apart(matching: Path) -> None:
    kinds: list[dict[str, Any]] = [
        {"features": "sift", "matcher": "nn"},
        {"features": "orb", "matcher": "nn"},
        {"features": "sift", "matcher": "nn", "max_keypoints": 7},
        {"features": "sift", "matcher": "nn", "refine": False},
        {"model": matching},
        {"model": matching, "matcher": "nn"},
        {"model": matching, "keypoint_threshold": 0.5},
        {"model": matching, "sinkhorn_iterations": 3},
    ]
    described = [describe(load(**kind)) for kind in kinds]
    assert len({json.dumps(description) for description in described}) == len(kinds)
    assert described[0]["name"] == "sift+nn"
    assert described[4]["name"] == "model" and described[5]["name"] == "model (superpoint+nn)"
    assert described[0]["extractor"] == described[3]["extractor"]
    assert described[4]["extractor"] == described[7]["extractor"] != described[6]["extractor"]


def test_a_network_in_several_processes(matching: Path, photos: Path) -> None:
    suite = homographies(photos, None)
    options = SessionOpener(model=str(matching), max_keypoints=64, threads=1)
    first = evaluate(options, suite)
    assert first.summary["matches"] > 0
    assert plain(evaluate(options, suite, jobs=2)) == plain(first)


# What comes out


def test_files_and_table(photos: Path, tmp_path: Path) -> None:
    (photos / "b.png").write_bytes(b"not an image")
    found = evaluate(SIFT, homographies(photos, None))
    found.save(tmp_path / "out.json")
    found.save_csv(tmp_path / "out.csv")
    data = json.loads((tmp_path / "out.json").read_text())
    assert data["format_version"] == 1 and data["suite"] == "homography"
    assert data["model"]["name"] == "sift+nn" and data["settings"]["photometric"] is True
    assert data["results"][1]["error"] is None and data["results"][1]["unreadable"] is True
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert len(lines) == 4 and lines[0].startswith("index,name,group,error,")
    table = found.to_markdown().splitlines()
    assert len(table) == 3 and len({line.count("|") for line in table}) == 1
    assert "AUC@5" in table[0] and "sift+nn" in table[2]
    both = markdown_table([("one", found.summary), ("two | three", found.summary)])
    assert "two \\| three" in both
    old = {name: value for name, value in found.summary.items() if name != "auc_lo"}
    head, _, first, second = markdown_table([("old", old), ("new", found.summary)]).splitlines()
    assert "optimized AUC@5" in head
    assert (first.count("–"), second.count("–")) == (3, 0)


def test_worst_pairs_are_drawn(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    path = write_list(shift_and_turn)
    path.write_text(path.read_text().replace("b.png", "none.png"))
    cv2.imwrite(str(photos / "c.png"), np.zeros((120, 160), np.uint8))
    suite = homographies(photos, path, photometric=False)
    oracle = Oracle(shift_and_turn)
    found = evaluate(oracle, suite)
    assert [result.name for result in found.worst(3)] == ["none.png", "c.png", "a.png"]
    pictures = draw_worst(oracle, suite, found, 5, tmp_path / "worst")
    assert [picture.name for picture in pictures] == ["01_c.png.png", "02_a.png.png"]
    drawn = cv2.imread(str(pictures[1]))
    assert drawn is not None and drawn.shape[1] == 2 * SIZE[0] + 8


def test_points_of_the_oracle_are_the_truth(shift_and_turn: Array) -> None:
    """The helper itself: its matches go where H says."""
    oracle = Oracle(shift_and_turn)
    features = oracle.extract(texture(0))
    matches = oracle.match(features, features).matches
    assert np.allclose(project(matches.points0, shift_and_turn), matches.points1, atol=1e-3)

"""Refinement of matches under known warps of photographs."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from featherglue.data.photographs import detect_corners
from featherglue.matching import subpixel
from featherglue.matching.subpixel import RefineConfig, refine_matches

WARPS = {
    "shift": np.array([[1.0, 0, 7.3], [0, 1, -4.6], [0, 0, 1]]),
    "turn": np.array([[0.82, -0.46, 110.0], [0.46, 0.82, -60], [0, 0, 1]]),
    "zoom": np.array([[1.35, 0.05, -60.0], [0.02, 1.3, -50], [0, 0, 1]]),
    "shrink": np.array([[0.72, -0.05, 60.0], [0.04, 0.7, 40], [0, 0, 1]]),
    "slant": np.array([[0.9, 0.1, 20.0], [0.05, 0.85, 10], [3e-4, -2e-4, 1]]),
}


def warp(H: np.ndarray, points: np.ndarray) -> np.ndarray:
    mapped = np.c_[points, np.ones(len(points))] @ H.T
    return mapped[:, :2] / mapped[:, 2:]


def jittered(
    image0: np.ndarray, H: np.ndarray, *, most: int = 400, jitter: float = 1.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The warped image, points of both images (the second ones jittered), and the truth."""
    height, width = image0.shape
    image1 = cv2.warpPerspective(image0, H, (width, height), flags=cv2.INTER_CUBIC)
    points0 = detect_corners(image0, most)
    truth = warp(H, points0)
    inside = ((truth > 12) & (truth < (width - 13, height - 13))).all(1)
    points0, truth = points0[inside], truth[inside]
    noise = np.random.default_rng(seed).normal(0, jitter, truth.shape)
    return image1, points0, (truth + noise).astype(np.float32), truth


def errors(points: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points - truth, axis=1)


@pytest.mark.parametrize("name", ["camera", "astronaut", "coffee"])
@pytest.mark.parametrize("kind", WARPS)
def test_jittered_points_are_recovered(
    kind: str, name: str, photographs: dict[str, np.ndarray]
) -> None:
    image0 = photographs[name]
    image1, points0, points1, truth = jittered(image0, WARPS[kind])
    assert len(points0) > 100
    before = errors(points1, truth)
    assert 1.0 < np.median(before) < 1.4
    refined, mask = refine_matches(image0, image1, points0, points1)
    assert refined.dtype == np.float32
    after = errors(refined, truth)
    assert np.median(after) < 0.3
    assert mask.mean() > 0.6
    assert np.median(after[mask]) < 0.2
    np.testing.assert_array_equal(refined[~mask], points1[~mask])
    assert (after[mask] > before[mask] + 0.5).mean() < 0.05


def exposed(image: np.ndarray) -> np.ndarray:
    return np.clip(image * 0.55 + 60, 0, 255).astype(np.uint8)


def shaded(image: np.ndarray) -> np.ndarray:
    ramp = np.linspace(0.5, 1.1, image.shape[1])
    return np.clip(image * ramp, 0, 255).astype(np.uint8)


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 1.2))


def noisy(image: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(1).normal(0, 6, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("change", [exposed, shaded, blurred, noisy])
def test_light_blur_and_noise_increase_the_error_little(
    change, photographs: dict[str, np.ndarray]
) -> None:
    image0 = photographs["astronaut"]
    image1, points0, points1, truth = jittered(image0, WARPS["slant"])
    refined, mask = refine_matches(image0, change(image1), points0, points1)
    assert np.median(errors(refined, truth)) < 0.3
    assert mask.mean() > 0.6


def test_outliers_stay_close_and_leave_the_others_accurate(
    photographs: dict[str, np.ndarray],
) -> None:
    image0 = photographs["camera"]
    image1, points0, points1, truth = jittered(image0, WARPS["slant"])
    rng = np.random.default_rng(2)
    wrong = rng.random(len(points0)) < 0.2
    points1[wrong] = (rng.random((wrong.sum(), 2)) * 500).astype(np.float32)
    refined, mask = refine_matches(image0, image1, points0, points1)
    assert np.median(errors(refined, truth)[~wrong]) < 0.35
    assert mask[wrong].mean() < 0.15
    assert errors(refined, points1).max() < RefineConfig().max_move


def test_repeated_texture_is_not_confused() -> None:
    y, x = np.mgrid[:320, :320]
    board = np.where((x // 12 + y // 12) % 2, 220, 40).astype(np.uint8)
    image0 = np.asarray(cv2.GaussianBlur(board, (0, 0), 0.8))
    worse = []
    for seed, kind in enumerate(("shift", "slant", "zoom")):
        image1, points0, points1, truth = jittered(image0, WARPS[kind], seed=seed)
        assert len(points0) > 100
        refined, mask = refine_matches(image0, image1, points0, points1)
        assert mask.sum() > 50
        worse.append(errors(refined, truth)[mask] > errors(points1, truth)[mask] + 0.5)
    assert np.concatenate(worse).mean() < 0.05


def test_neighbors_fix_a_match_on_a_straight_edge() -> None:
    stripes = np.arange(240) // 40 % 2 * 150 + 50
    image0 = np.asarray(cv2.GaussianBlur(np.tile(stripes, (240, 1)).astype(np.uint8), (0, 0), 1.0))
    x, y = np.meshgrid(np.arange(40, 240, 40) - 0.5, np.linspace(20, 220, 15))
    points0 = np.stack((x.ravel(), y.ravel()), 1).astype(np.float32)
    rng = np.random.default_rng(0)
    points1 = (points0 + rng.normal(0, 1, points0.shape)).astype(np.float32)
    refined, mask = refine_matches(image0, image0, points0, points1)
    assert mask.mean() > 0.5
    assert np.median(np.abs(refined - points0)[mask, 0]) < 0.2  # across it
    before, after = (np.abs(p - points0)[mask, 1] for p in (points1, refined))
    assert np.sqrt(np.mean(after**2)) < 0.8 * np.sqrt(np.mean(before**2))
    still = dataclasses.replace(RefineConfig(), pull=0.0)
    alone, _ = refine_matches(image0, image0, points0, points1, still)
    assert np.abs(alone - points1)[:, 1].max() < 0.5


@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_flat_image_moves_nothing(value: int, photographs: dict[str, np.ndarray]) -> None:
    flat = np.full((512, 512), value, np.uint8)
    _, points0, points1, _ = jittered(photographs["camera"], WARPS["shift"])
    for images in ((flat, flat), (photographs["camera"], flat), (flat, photographs["camera"])):
        refined, mask = refine_matches(*images, points0, points1)
        assert not mask.any()
        np.testing.assert_array_equal(refined, points1)


@pytest.mark.parametrize("count", [0, 1, 2, 9, 10])
def test_too_few_neighbors_change_nothing(count: int, photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    image1, points0, points1, _ = jittered(image0, WARPS["shift"])
    refined, mask = refine_matches(image0, image1, points0[:count], points1[:count])
    np.testing.assert_array_equal(refined, points1[:count])
    assert mask.shape == (count,)
    assert not mask.any()


def test_one_neighbor_more_is_enough(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    image1, points0, points1, truth = jittered(image0, WARPS["shift"])
    config = RefineConfig()
    near = np.argsort(np.linalg.norm(points0 - points0[0], axis=1))[: config.num_neighbors + 1]
    refined, mask = refine_matches(image0, image1, points0[near], points1[near], config)
    assert mask.sum() >= 6
    assert np.median(errors(refined, truth[near])) < 0.4


def test_repeated_points(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    image1, points0, points1, truth = jittered(image0, WARPS["slant"])
    for repeats in (2, 20):  # also more often than there are neighbors
        twice0, twice1 = (
            np.repeat(points0, repeats, 0)[:1000],
            np.repeat(points1, repeats, 0)[:1000],
        )
        refined, _ = refine_matches(image0, image1, twice0, twice1)
        assert np.isfinite(refined).all()
        assert errors(refined, twice1).max() < RefineConfig().max_move
    doubled = refine_matches(image0, image1, np.repeat(points0, 2, 0), np.repeat(points1, 2, 0))[0]
    assert np.median(errors(doubled, np.repeat(truth, 2, 0))) < 0.35
    same0, same1 = np.repeat(points0[:1], 50, 0), np.repeat(points1[:1], 50, 0)
    refined, _ = refine_matches(image0, image1, same0, same1)
    assert np.isfinite(refined).all()


def test_points_at_the_border_stay_within_the_image(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    side = np.linspace(0, 511, 25)
    edge = np.zeros(25)
    points0 = np.concatenate(
        [np.stack(pair, 1) for pair in ((side, edge), (side, edge + 511), (edge, side))]
    ).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 1, points0.shape)
    points1 = np.clip(points0 + noise, 0, 511).astype(np.float32)
    refined, mask = refine_matches(image0, image0, points0, points1)
    assert (refined >= 0).all()
    assert (refined <= 511).all()
    assert mask.any()
    # Half of each window shows nothing but the repeated border.
    assert np.median(errors(refined, points0)[mask]) < 0.5 * np.median(errors(points1, points0))


def test_images_of_two_sizes(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    height, width = image0.shape
    points0 = detect_corners(image0, 300)
    points0 = points0[(points0 > 20).all(1) & (points0 < 490).all(1)]
    H = np.array([[0.6, 0, 15.0], [0, 0.5, 40], [0, 0, 1]])
    image1 = cv2.warpPerspective(cv2.GaussianBlur(image0, (0, 0), 0.7), H, (340, 300))
    truth = warp(H, points0)
    points1 = (truth + np.random.default_rng(0).normal(0, 1, truth.shape)).astype(np.float32)
    refined, mask = refine_matches(image0, image1, points0, points1)
    assert mask.mean() > 0.5
    assert np.median(errors(refined, truth)) < 0.35
    assert (height, width) == image0.shape


def test_nothing_is_changed_in_place(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    arrays = [image0, *jittered(image0, WARPS["shift"])[:3]]
    copies = [array.copy() for array in arrays]
    image0, image1, points0, points1 = arrays
    first = refine_matches(image0, image1, points0, points1)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    second = refine_matches(image0, image1, points0, points1)
    np.testing.assert_array_equal(first[0], second[0])


def test_the_maximum_move_is_respected(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["astronaut"]
    image1, points0, points1, _ = jittered(image0, WARPS["shift"], jitter=2.0)
    short = dataclasses.replace(RefineConfig(), max_move=0.7)
    refined, mask = refine_matches(image0, image1, points0, points1, short)
    assert mask.any()
    assert errors(refined, points1).max() < 0.7
    assert mask.sum() < refine_matches(image0, image1, points0, points1)[1].sum()


def test_images_longer_than_opencv_remaps(photographs: dict[str, np.ndarray]) -> None:
    # cv2.remap stops at 32766 pixels a side; a panorama may well be longer.
    strip = photographs["camera"][200:264]
    long0 = np.tile(strip, (1, 80))
    points0 = detect_corners(strip, 60)
    points0 = points0[(points0 > 8).all(1) & (points0 < (500, 56)).all(1)]
    points0 = np.concatenate((points0, points0 + np.float32([70 * 512, 0])))
    noise = np.random.default_rng(0).normal(0, 1, points0.shape)
    points1 = (points0 + noise).astype(np.float32)
    refined, mask = refine_matches(long0, long0, points0, points1)
    assert np.median(errors(refined, points0)[mask]) < 0.3


def test_exact_matches_are_unchanged(photographs: dict[str, np.ndarray]) -> None:
    image0 = photographs["camera"]
    points = detect_corners(image0, 300).round()
    refined, mask = refine_matches(image0, image0, points, points)
    assert mask.mean() < 0.2  # where rounding makes a move look better
    assert np.abs(refined - points).max() < 0.01


def test_an_image_is_sampled_at_no_points() -> None:
    empty = np.zeros((121, 0), np.float32)
    assert subpixel._sample(np.zeros((8, 8), np.uint8), empty, empty).shape == (121, 0)

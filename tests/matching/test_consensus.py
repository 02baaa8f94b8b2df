"""The consensus of neighboring matches."""

from __future__ import annotations

import numpy as np
import pytest

from featherglue.errors import UsageError
from featherglue.matching.consensus import filter_by_consensus, fit_local_maps
from featherglue.matching.subpixel import refine_matches
from featherglue.session import load


def test_maps_of_an_affine_warp_are_that_warp() -> None:
    rng = np.random.default_rng(0)
    A = np.array([[1.2, -0.3], [0.4, 0.8]])
    points0 = (rng.random((300, 2)) * 400).astype(np.float32)
    points1 = (points0 @ A.T + (30, -10)).astype(np.float32)
    maps = fit_local_maps(points0, points1)
    np.testing.assert_allclose(maps.affine, np.broadcast_to(A, maps.affine.shape), atol=0.02)
    assert np.abs(maps.offsets).max() < 0.2
    off = points1.copy()
    off[7] += (0, 25)
    maps = fit_local_maps(points0, off)
    np.testing.assert_allclose(maps.offsets[:, 7], (0, -25), atol=2)
    assert np.median(maps.deviation) < 0.1
    assert np.abs(maps.affine[np.arange(300) != 7] - A).max() < 0.3


def scene(wrong: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two planes with different motion and a ratio of wrong matches: points, scores, truth."""
    rng = np.random.default_rng(seed)
    points0 = (rng.random((300, 2)) * (640, 480)).astype(np.float32)
    left = points0[:, 0] < 300
    points1 = np.where(left[:, None], points0 @ [[0.9, 0.1], [-0.1, 1.0]] + 20, points0 - [30, -5])
    points1 = points1.astype(np.float32) + rng.normal(0, 1, points1.shape).astype(np.float32)
    true = rng.random(300) >= wrong
    points1[~true] = (rng.random((int((~true).sum()), 2)) * (640, 480)).astype(np.float32)
    scores = np.where(true, rng.uniform(0.2, 0.85, 300), rng.uniform(0.1, 0.6, 300))
    return points0, points1, scores.astype(np.float32), true


@pytest.mark.parametrize("wrong", [0.0, 0.3, 0.5])
def test_wrong_matches_are_dropped_and_true_ones_kept(wrong: float) -> None:
    points0, points1, scores, true = scene(wrong)
    kept, maps = filter_by_consensus(points0, points1, scores, 0.9)
    assert maps is not None and len(maps.affine) == len(kept) and np.all(np.diff(kept) > 0)
    assert true[kept].mean() > 0.93
    assert true[kept].sum() > (0.85 if wrong < 0.5 else 0.6) * true.sum()
    assert (maps.deviation < 10 + 0.5 * maps.distance).all()


@pytest.mark.parametrize(("count", "side"), [(14, 640), (20, 4000), (100, 4000), (100, 640)])
def test_an_exact_affine_map_is_supported_at_any_density(count: int, side: int) -> None:
    rng = np.random.default_rng(count)
    points0 = (rng.random((count, 2)) * side).astype(np.float32)
    points1 = (points0 @ [[0.8, -0.5], [0.5, 0.8]] + 50).astype(np.float32)
    scores = np.full(count, 0.3, np.float32)
    kept, maps = filter_by_consensus(points0, points1, scores, 0.9)
    assert len(kept) == count and maps is not None
    assert np.median(maps.deviation) < 1


def test_random_matches_have_no_support() -> None:
    rng = np.random.default_rng(5)
    points0, points1 = (rng.random((2, 200, 2)) * (640, 480)).astype(np.float32)
    for scores in (np.zeros(200, np.float32), rng.random(200).astype(np.float32) / 2):
        assert len(filter_by_consensus(points0, points1, scores, np.inf)[0]) < 20


def test_a_confident_match_needs_no_support() -> None:
    points0, points1, scores, true = scene(0.3)
    isolated = int(np.flatnonzero(~true)[0])
    scores[isolated] = 0.95
    assert isolated in filter_by_consensus(points0, points1, scores, 0.9)[0]
    assert isolated not in filter_by_consensus(points0, points1, scores, np.inf)[0]


@pytest.mark.parametrize("count", [0, 1, 13])
def test_too_few_matches_are_all_kept(count: int) -> None:
    points0, points1, scores, _ = scene(1.0)
    kept, maps = filter_by_consensus(points0[:count], points1[:count], scores[:count], 0.9)
    np.testing.assert_array_equal(kept, np.arange(count))
    assert maps is None


def test_refinement_fits_the_same_maps_as_the_caller(gray: np.ndarray) -> None:
    points0, points1, scores, _ = scene(0.3)
    kept, _ = filter_by_consensus(points0, points1, scores, 0.9)
    points0, points1 = points0[kept] / 3, points1[kept] / 3
    alone = refine_matches(gray, gray, points0, points1)
    given = refine_matches(gray, gray, points0, points1, maps=fit_local_maps(points0, points1))
    np.testing.assert_array_equal(given[0], alone[0])
    np.testing.assert_array_equal(given[1], alone[1])


def test_a_session_drops_matches_without_support(shifted: tuple[np.ndarray, np.ndarray]) -> None:
    options = {"features": "sift", "matcher": "nn", "threads": 1, "refine": False}
    every = load(**options)(*shifted)  # type: ignore[arg-type]
    held = load(**options, consensus=0.9)(*shifted)  # type: ignore[arg-type]
    ours = {tuple(pair) for pair in held.matches.indices.tolist()}
    assert ours <= {tuple(pair) for pair in every.matches.indices.tolist()}
    assert len(ours) > 10
    assert "consensus" in held.milliseconds and "consensus" not in every.milliseconds


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e30])
def test_points_must_be_finite(value: float) -> None:
    points = np.random.default_rng(0).uniform(0, 400, (60, 2)).astype(np.float32)
    off = points.copy()
    off[7, 1] = value
    with pytest.raises(UsageError, match="finite"):
        filter_by_consensus(off, points, np.ones(60, np.float32), 0.6)

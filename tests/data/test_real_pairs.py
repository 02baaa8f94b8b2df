"""The choice of real pairs and the fits of their epipolar geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from two_views import planar_matches, spatial_matches

from featherglue.data.real_pairs import (
    NUM_FITS,
    RealPair,
    RealPairConfig,
    draw_pair,
    fit_fundamentals,
)
from featherglue.errors import ConfigError, TrainingError
from featherglue.geometry.direct_linear_transform import linear_fundamental
from featherglue.geometry.epipolar import sampson_distances


class Numbered:
    """Pairs that hold their index; those of `empty` have too few matches."""

    def __init__(self, overlaps: list[float], empty: tuple[int, ...] = ()) -> None:
        self.overlaps, self.empty = np.array(overlaps), empty

    def __getitem__(self, index: int) -> RealPair | None:
        if index in self.empty:
            return None
        points = np.full((1, 2), index, np.float32)
        F = np.arange(9.0).reshape(1, 3, 3)
        return RealPair(numbers=(index, -1), points0=points, points1=points + 0.5, fundamentals=F)


def drawn(pairs: Numbered, count: int = 400) -> list[RealPair]:
    rng = np.random.default_rng(0)
    return [draw_pair(rng, pairs) for _ in range(count)]


def test_hard_pairs_are_as_frequent_as_easy_ones() -> None:
    pairs = Numbered([0.01, 0.1, *[0.5] * 20], empty=(5,))
    found = [max(pair.numbers) for pair in drawn(pairs)]
    assert 0.4 < found.count(1) / len(found) < 0.6
    assert set(found) == set(range(1, 22)) - {5}


def test_both_orders_occur_and_transpose_the_fundamental_matrices() -> None:
    found = drawn(Numbered([0.1]), 40)
    swapped = [pair for pair in found if pair.numbers == (-1, 0)]
    assert 5 < len(swapped) < 35
    np.testing.assert_array_equal(swapped[0].fundamentals[0], np.arange(9.0).reshape(3, 3).T)
    assert swapped[0].points0[0, 0] == 0.5 and swapped[0].points1[0, 0] == 0


def test_sources_without_a_usable_pair_are_rejected() -> None:
    with pytest.raises(TrainingError, match="overlap of 5"):
        drawn(Numbered([0.01, 0.02]), 1)
    with pytest.raises(TrainingError, match="fewer than 20 verified matches"):
        drawn(Numbered([0.1, 0.6], empty=(0, 1)), 1)


def test_fits_agree_in_space_and_disagree_on_a_plane() -> None:
    noise = np.random.default_rng(1).normal(0, 0.3, (200, 2)).astype(np.float32)
    elsewhere = spatial_matches(seed=3)
    errors = []
    for points0, points1 in (spatial_matches(), planar_matches()):
        best = linear_fundamental(points0, points1 + noise)
        fits = fit_fundamentals(points0, points1 + noise, best)
        assert fits.shape == (NUM_FITS, 3, 3)
        np.testing.assert_array_equal(fits[0], best)
        np.testing.assert_array_equal(fits, fit_fundamentals(points0, points1 + noise, best))
        errors.append([np.median(sampson_distances(F, *elsewhere)) for F in fits])
    assert max(errors[0]) < 1
    assert max(errors[1]) > 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either matches or models"),
        ({"matches": "m", "features": "f", "models": "x"}, "either matches or models"),
        ({"matches": "m"}, "give both"),
        ({"models": "x", "features": "f"}, "give both"),
        ({"models": "x", "fraction": 0.0}, "fraction must be in"),
        ({"models": "x", "turns": 1.5}, "turns must be in"),
        ({"features": "f", "matches": "m", "depths": "d"}, "give both or neither"),
        ({"models": "x", "epipolar_weight": float("nan")}, "epipolar_weight must be at least 0"),
    ],
)
def test_bad_settings_are_rejected(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RealPairConfig(**settings)

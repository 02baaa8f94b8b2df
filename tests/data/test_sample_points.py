"""The choice and the padding of points of a sample."""

from __future__ import annotations

import numpy as np

from featherglue.data.sample_points import choose_points, padded_rows


def test_few_points_are_all_chosen() -> None:
    usable = np.array([True, False, True, True])
    assert choose_points(np.random.default_rng(0), usable, 3).tolist() == [0, 2, 3]


def test_many_points_are_chosen_at_random_in_ascending_order() -> None:
    usable = np.arange(200) % 2 == 0
    rng = np.random.default_rng(0)
    chosen = [choose_points(rng, usable, 10) for _ in range(50)]
    for indices in chosen:
        assert len(indices) == 10 and usable[indices].all() and (np.diff(indices) > 0).all()
    assert len(np.unique(np.concatenate(chosen))) > 90


def test_rows_are_followed_by_zeros() -> None:
    rows = np.arange(6.0).reshape(3, 2) + 1
    padded = padded_rows(rows, 5)
    assert padded.dtype == np.float32
    assert padded.tolist() == [[1, 2], [3, 4], [5, 6], [0, 0], [0, 0]]

"""Scores of pairs: codes, summaries and bootstrap intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from featherglue.errors import StoredFileError, UsageError
from featherglue.io.files import write_npz
from featherglue.sensitivity.pair_files import read_pairs, write_pairs
from featherglue.sensitivity.pair_scores import PairScores, loss_interval


def scores(seed: int, shift: float = 0.0, count: int = 32) -> PairScores:
    rng = np.random.default_rng(seed)
    errors = rng.exponential(4, count) + shift
    errors[:2] = np.inf
    errors[2] = 5.0  # exactly a threshold
    return PairScores(errors, rng.uniform(0, 1, count), rng.uniform(0, 1, count))


def test_scores_survive_their_codes() -> None:
    ours = scores(0)
    again = PairScores.decode(ours.encode())
    assert again.errors == pytest.approx(ours.errors, abs=0.0051)
    assert again.precision == pytest.approx(ours.precision, abs=0.00006)
    assert PairScores.decode(again.encode()).summary() == again.summary()
    far = PairScores(np.array([1e6]), np.array([1.0]), np.array([1.0]))
    assert np.isinf(PairScores.decode(far.encode()).errors).all()


@pytest.mark.parametrize("metric", ["", "auc5", "auc10", "auc25", "precision", "recall"])
def test_loss_is_the_difference_of_the_summaries(metric: str) -> None:
    original, changed = scores(0), scores(1, 2.0)

    def value(given: PairScores) -> float:
        summary = given.summary()
        return summary[metric] if metric else float(np.mean(list(summary.values())))

    found = loss_interval(original, changed, metric)
    assert found.value == pytest.approx(value(original) - value(changed))
    assert found.low < found.value < found.high


def test_bootstrap_interval_has_the_width_of_the_standard_error() -> None:
    rng = np.random.default_rng(2)
    count = 400
    recall0, lost = rng.uniform(0.8, 1, count), rng.normal(0.05, 0.02, count)
    fixed = np.full(count, 1.0)
    original = PairScores(fixed, fixed, recall0)
    changed = PairScores(fixed, fixed, recall0 - lost)
    found = loss_interval(original, changed, "recall", num_draws=4000)
    error = 100 * lost.std() / np.sqrt(count)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)
    none = loss_interval(original, original)
    assert (none.value, none.low, none.high) == (0, 0, 0)


def test_files_hold_the_pairs_of_each_change(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    pairs = {
        ("", "", 0.0): {"unrefined": scores(0), "refined": scores(1)},
        ("matcher.final_proj", "prune", 0.9): {"unrefined": scores(2), "refined": scores(3)},
    }
    write_pairs(path, pairs)
    again = read_pairs(path)
    assert list(again) == list(pairs)
    for key, states in pairs.items():
        for state, ours in states.items():
            assert again[key][state].summary() == pytest.approx(ours.summary(), abs=0.2)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(StoredFileError, match=r"pairs\.npz: damaged"):
        read_pairs(path)
    write_npz(path, {"codes": np.zeros((1, 2), np.uint16)})
    with pytest.raises(UsageError, match=r"pairs\.npz: damaged .*remove it"):
        read_pairs(path)

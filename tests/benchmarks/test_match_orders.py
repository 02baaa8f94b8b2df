"""benchmarks/match_orders.py: means over orders of the matches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import featherglue as fg
from featherglue.evaluation import HomographySuite, evaluate
from featherglue.evaluation.pair_evaluation import PairEvaluator


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("match_orders")


@pytest.fixture
def session() -> fg.Session:
    return fg.load("fast", max_keypoints=64, threads=1)


def test_one_order_is_the_evaluation(script: ModuleType, session: fg.Session, val: Path) -> None:
    suite = HomographySuite(folder=val, pair_file=val / "homographies.txt")
    match = PairEvaluator(session, suite).match
    found = script.ordered_summary(match, suite, suite.pairs(), 1)
    expected = evaluate(session, suite).summary
    assert found["pairs"] == expected["pairs"] > 0
    for name in ("auc", "auc_lo", "precision", "recall"):
        assert found[name] == pytest.approx(expected[name])


def test_a_pair_that_cannot_be_read_counts_as_failed(
    script: ModuleType, session: fg.Session, val: Path
) -> None:
    suite = HomographySuite(folder=val, pair_file=val / "homographies.txt")
    match, pairs = PairEvaluator(session, suite).match, suite.pairs()[:1]
    readable = script.ordered_summary(match, suite, pairs, 2)
    for path in val.glob("*.png"):
        path.write_bytes(b"broken")
    broken = script.ordered_summary(PairEvaluator(session, suite).match, suite, pairs, 2)
    assert readable["failures"] == 0 < broken["failures"]
    assert broken["precision"] == 0


def test_orders_keep_the_matches(
    script: ModuleType, session: fg.Session, photographs: dict[str, np.ndarray]
) -> None:
    image = photographs["camera"]
    found = session(image, np.roll(image, 4, 1))
    orders = [script.reordered(found, seed).matches for seed in range(3)]
    assert orders[0] is found.matches
    for one, other in ((0, 1), (1, 2)):
        assert not np.array_equal(orders[one].points0, orders[other].points0)
    columns = [
        np.column_stack((m.indices, m.points0, m.points1, m.scores, m.refined)) for m in orders
    ]
    for rows in columns[1:]:
        assert {tuple(row) for row in rows} == {tuple(row) for row in columns[0]}


def test_means_of_nested_summaries(script: ModuleType) -> None:
    summaries: list[dict[str, Any]] = [
        {"pairs": 3, "auc": {"5": 10.0}, "precision": 90.0, "name": "x"},
        {"pairs": 4, "auc": {"5": 20.0}, "precision": 80.0, "name": "y"},
    ]
    expected = {"pairs": 3, "auc": {"5": 15.0}, "precision": 85.0, "name": "x"}
    assert script.mean_summary(summaries) == expected

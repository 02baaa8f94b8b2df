"""Merging of scans that ran apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from featherglue.errors import UsageError
from featherglue.sensitivity.merging import merge_scans
from featherglue.sensitivity.pair_scores import PairScores
from featherglue.sensitivity.results import UNCHANGED, Change, Row, Scan, read_scan, write_scan

SETTINGS: dict[str, Any] = {"version": 2, "model": "m", "score": {"num_pairs": 32}}


def row(layer: str, method: str, level: float, auc: float) -> Row:
    """A row with the scores of two pairs."""
    pairs = PairScores(np.array([1.0, np.inf]), np.array([0.5, 0.0]), np.array([0.25, 0.0]))
    return Row(Change(layer, method, level), {"auc5": auc}, 1.0, {"unrefined": pairs})


def scan(*rows: Row, settings: dict[str, Any] = SETTINGS) -> Scan:
    """A scan whose unchanged model has 50 points."""
    return Scan(rows=(row("", "", 0, 50.0), *rows), settings=settings)


def test_rows_of_both_scans_are_kept_once(tmp_path: Path) -> None:
    pruned, both = row("a", "prune", 0.9, 40.0), row("b", "prune", 0.9, 30.0)
    shared = row("a", "codebook", 2, 20.0)
    unstarted = Scan(settings=SETTINGS)
    found = merge_scans([Scan(), unstarted, scan(pruned, shared), scan(shared, both)])
    assert [r.change for r in found.rows] == [
        UNCHANGED,
        pruned.change,
        shared.change,
        both.change,
    ]
    write_scan(tmp_path, found)
    stored = read_scan(tmp_path)
    assert stored.settings == SETTINGS
    assert [(r.change, r.scores, r.seconds) for r in stored.rows] == [
        (r.change, r.scores, r.seconds) for r in found.rows
    ]
    assert all(r.pairs["unrefined"].recall[0] == 0.25 for r in stored.rows)
    assert merge_scans([]) == Scan()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (scan(settings=SETTINGS | {"model": "n"}), "different models"),
        (scan(settings=SETTINGS | {"score": {"num_pairs": 16}}), "num_pairs is 32 in one and 16"),
        (scan(settings=SETTINGS | {"version": 1}), "version is 2 in one and 1"),
        (Scan(rows=(row("", "", 0, 50.5),), settings=SETTINGS), "auc5 is 50.00 and 50.50"),
    ],
)
def test_scans_that_differ_are_not_merged(other: Scan, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        merge_scans([scan(), other])

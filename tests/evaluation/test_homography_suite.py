"""Suite of warped images: metrics against an oracle, and failures."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from evaluation_cases import SIFT, SIZE, WriteList, homographies
from scenes import Array, Oracle, project, texture

from featherglue.evaluation import (
    HomographyConfig,
    evaluate,
)
from featherglue.types import Features, Matches, MatchResult


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


def test_oracle_has_perfect_metrics(shift_and_turn: Array) -> None:
    """Matches of the oracle go where H says."""
    oracle = Oracle(shift_and_turn)
    features = oracle.extract(texture(0))
    matches = oracle.match(features, features).matches
    assert np.allclose(project(matches.points0, shift_and_turn), matches.points1, atol=1e-3)

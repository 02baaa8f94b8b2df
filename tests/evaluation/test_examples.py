"""Pictures of pairs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from evaluation_cases import SIZE, WriteList, homographies
from scenes import Array, Oracle

from featherglue.errors import UsageError
from featherglue.evaluation import (
    draw_worst,
    evaluate,
)
from featherglue.types import Features, MatchResult


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


def test_examples_are_the_best_and_the_worst(
    photos: Path, write_list: WriteList, shift_and_turn: Array
) -> None:
    cv2.imwrite(str(photos / "c.png"), np.zeros((120, 160), np.uint8))
    suite = homographies(photos, write_list(shift_and_turn), photometric=False)
    found = evaluate(Oracle(shift_and_turn), suite, num_examples=2)
    assert [(e.kind, e.name) for e in found.examples] == [
        ("best", "a.png"),
        ("best", "b.png"),
        ("worst", "c.png"),
    ]
    best, _, worst = found.examples
    assert "100 % correct" in best.caption and "failed, 0 matches" in worst.caption
    picture = cv2.imdecode(np.frombuffer(best.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None and picture.shape[1] == 2 * SIZE[0] + 8
    assert [e["name"] for e in found.to_dict()["examples"]] == ["a.png", "b.png", "c.png"]


def test_pairs_that_cannot_be_matched_are_not_drawn(
    photos: Path, write_list: WriteList, shift_and_turn: Array
) -> None:
    class Failing(Oracle):
        def match(self, features0: Features, features1: Features) -> MatchResult:
            raise UsageError("no")

    suite = homographies(photos, write_list(shift_and_turn))
    found = evaluate(Failing(shift_and_turn), suite, num_examples=1)
    assert found.summary["failures"] == 3 and "UsageError: no" in found.results[0].failure
    assert found.examples == ()


def test_examples_have_no_text_because_the_report_has_captions(
    photos: Path, write_list: WriteList, shift_and_turn: Array, tmp_path: Path
) -> None:
    suite = homographies(photos, write_list(shift_and_turn), photometric=False)
    oracle = Oracle(shift_and_turn)
    found = evaluate(oracle, suite, num_examples=1)
    [path] = draw_worst(oracle, suite, found, 1, tmp_path)
    example = next(e for e in found.examples if path.name == f"01_{e.name}.png")
    bare = cv2.imdecode(np.frombuffer(example.jpeg, np.uint8), cv2.IMREAD_COLOR)
    labeled = cv2.imread(str(path))
    assert bare is not None and labeled is not None
    # The caption stays off small images: it is a strip above them.
    rows = len(labeled) - len(bare)
    assert rows > 0
    assert np.median(cv2.absdiff(bare, labeled[rows:])) < 8
    assert labeled[:rows].std() > 2

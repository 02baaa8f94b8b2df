"""Matches of stored features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.collection import store_matching
from featherglue.collection.extraction import SessionSource
from featherglue.collection.match_alignment import smoothed
from featherglue.collection.records import Record
from featherglue.collection.resumable import StepResult
from featherglue.collection.store import write_store
from featherglue.collection.store_matching import match_features, match_record
from featherglue.options import SessionOptions
from featherglue.session import load
from featherglue.types import Features, Matches, MatchResult


class Stored:
    """Features by name, as a `FeatureReader` gives them."""

    def __init__(self, features: dict[str, Features]) -> None:
        self._features = features

    def read(self, name: str) -> Features:
        return self._features[name]

    def smoothed(self, name: str) -> np.ndarray:
        image = self._features[name].image
        assert image is not None
        return smoothed(image)


def test_matches_of_a_search_belong_to_the_stored_keypoints(
    photographs: dict[str, np.ndarray],
) -> None:
    image = cv2.resize(photographs["coffee"], (400, 300), interpolation=cv2.INTER_AREA)
    session = load("fast", threads=1, refine=False, search="auto")
    upside_down = np.ascontiguousarray(np.rot90(image, 2))
    features = {"a": session.extract(image), "b": session.extract(upside_down)}
    record = match_record(session, Stored(features), ("a", "b"))  # type: ignore[arg-type]
    partner = record.arrays["matches0"]
    rows = np.flatnonzero(partner >= 0)
    assert len(rows) > 80
    assert len(set(partner[rows])) == len(rows)
    turned = np.array([399, 299]) - features["a"].keypoints[rows]
    errors = np.hypot(*(turned - features["b"].keypoints[partner[rows]]).T)
    assert np.mean(errors < 4) > 0.9


class Guided:
    """A session whose matches are of keypoints that it adds, 1 px beside the given ones."""

    def match(self, features0: Features, features1: Features) -> MatchResult:
        beside = np.array([1, 0], np.float32)
        both = [
            replace(
                features,
                keypoints=np.concatenate((features.keypoints, features.keypoints + beside)),
                scores=np.tile(features.scores, 2),
                descriptors=np.tile(features.descriptors, (2, 1)),
            )
            for features in (features0, features1)
        ]
        rows = np.arange(len(features0), 2 * len(features0))
        matches = Matches(
            indices=np.stack((rows, rows), 1),
            scores=np.full(len(rows), 0.5, np.float32),
            points0=both[0].keypoints[rows].astype(np.float32),
            points1=both[1].keypoints[rows].astype(np.float32),
            refined=np.zeros(len(rows), np.bool_),
        )
        return MatchResult(features0=both[0], features1=both[1], matches=matches)


def test_matches_of_added_keypoints_belong_to_the_stored_ones(
    photographs: dict[str, np.ndarray],
) -> None:
    image = cv2.resize(photographs["coffee"], (400, 300), interpolation=cv2.INTER_AREA)
    features = load("fast", threads=1, max_keypoints=100).extract(image)
    record = match_record(Guided(), Stored({"a": features, "b": features}), ("a", "b"))  # type: ignore[arg-type]
    assert record.arrays["matches0"].tolist() == list(range(len(features)))


@pytest.mark.parametrize("given", [{}, {"search": "auto"}])
def test_a_collection_is_searched_only_if_asked(given: dict[str, str]) -> None:
    options = SessionOptions(**given)  # type: ignore[arg-type]
    session = SessionSource(model="fast", options=options).open()
    assert session.search == given.get("search", "off")


def test_missing_features_and_notes_are_part_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keypoints = {"keypoints": np.zeros((2, 2), np.float32)}
    records = [Record(key=(name,), attributes={}, arrays=keypoints) for name in ("a", "b")]
    write_store(tmp_path / "features.h5", {}, records)

    def finished(output: Path, manifest: Any, items: Any, task: Any, **_: Any) -> StepResult:
        assert list(items) == [("a", "b")]
        return StepResult(output=output, num_items=1, num_reused=0, notes=("a worker was lost",))

    monkeypatch.setattr(store_matching, "run_resumable", finished)
    result = match_features(
        tmp_path,
        tmp_path / "features.h5",
        tmp_path / "matches.h5",
        [("a", "b"), ("b", "a"), ("a", "c")],
        SessionSource(model="fast", options=SessionOptions()),
    )
    assert result.num_items == 2
    assert result.failures == {("a", "c"): "no features of c"}
    assert result.notes == ("a worker was lost",)

"""Matches of stored features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.collection import store_matching
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.match_alignment import smoothed
from featherglue.collection.records import Record
from featherglue.collection.resumable import StepResult
from featherglue.collection.store import Store, write_store
from featherglue.collection.store_matching import match_features, match_record
from featherglue.matching.hypotheses import HypothesisRanking
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


def test_a_search_of_stored_features_obeys_the_masks(
    tmp_path: Path, photographs: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = cv2.resize(photographs["coffee"], (400, 300), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    cv2.imwrite(str(tmp_path / "b.png"), cv2.rotate(image, cv2.ROTATE_180))
    masks = tmp_path / "masks"
    masks.mkdir()
    mask = np.zeros((300, 400), np.uint8)
    mask[:, 200:] = 255
    cv2.imwrite(str(masks / "a.png.png"), mask)
    source = SessionSource(model="fast", options=SessionOptions())
    images, features = tmp_path, tmp_path / "f.h5"
    extract_features(images, features, ["a.png", "b.png"], source, masks=masks, workers=1)
    asked: list[tuple[int | None, ...]] = []
    finalists = HypothesisRanking.finalists

    def noted(ranking: HypothesisRanking, *given: Any) -> Any:
        asked.append(tuple(None if one is None else int((one > 0).sum()) for one in given[2:]))
        return finalists(ranking, *given)

    monkeypatch.setattr(HypothesisRanking, "finalists", noted)
    pair = ("a.png", "b.png")

    def match(masks: Path | None) -> StepResult:
        return match_features(
            images,
            features,
            tmp_path / "m.h5",
            [pair],
            source,
            searched=[pair],
            masks=masks,
            workers=1,
        )

    assert match(masks).num_reused == 0
    assert asked == [(200 * 300, None)]
    assert match(masks).num_reused == 1
    with Store(tmp_path / "m.h5") as store:
        assert (store.read(pair).arrays["matches0"] >= 0).sum() > 50
    (tmp_path / "none").mkdir()  # the only mask was that of a photograph without features
    assert match(tmp_path / "none").failures == {}
    assert match(None).num_reused == 0  # another search
    assert asked[1:] == [(None, None)] * 2

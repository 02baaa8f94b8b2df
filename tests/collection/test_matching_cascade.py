"""The cascade calls the matcher only for pairs that need it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import featherglue as fg
from featherglue import cli
from featherglue.collection import matching_cascade
from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.matching_cascade import is_applicable, match_by_cascade
from featherglue.collection.store import Store
from featherglue.collection.store_matching import match_features
from featherglue.matching.assignment import nearest_neighbors
from featherglue.options import SessionOptions
from featherglue.session import Session
from featherglue.types import Features, MatchResult

OPTIONS = SessionOptions(max_keypoints=1200, resize=-1, keypoint_threshold=0.0, search="off")


class Counted:
    """A session that notes the number of keypoints of each match."""

    def __init__(self, session: Session) -> None:
        self._session, self.sizes = session, list[tuple[int, int]]()

    def match(self, features0: Features, features1: Features) -> MatchResult:
        self.sizes.append((len(features0), len(features1)))
        return self._session.match(features0, features1)


@pytest.fixture(scope="module")
def session() -> Session:
    return fg.load("fast", OPTIONS, threads=1, refine=False)


@pytest.fixture(scope="module")
def views(session: Session, photographs: dict[str, np.ndarray]) -> dict[str, Features]:
    """Two views of one photograph, and another one, each with 1200 keypoints."""
    coffee = cv2.resize(photographs["coffee"], (640, 480))
    warp = np.array([[1.02, 0.05, 4], [-0.04, 0.99, 9], [1e-5, 0, 1]])
    images = {
        "coffee": coffee,
        "moved": cv2.warpPerspective(coffee, warp, (640, 480)),
        "camera": cv2.resize(photographs["camera"], (640, 480)),
    }
    return {name: session.extract(image) for name, image in images.items()}


def first(features: Features, count: int) -> Features:
    return Features(
        keypoints=features.keypoints[:count],
        scores=features.scores[:count],
        descriptors=features.descriptors[:count],
        image_size=features.image_size,
    )


def match(session: Any, features0: Features, features1: Features) -> tuple[np.ndarray, np.ndarray]:
    return match_by_cascade(session, features0, features1)


def test_an_easy_pair_needs_no_matcher(session: Session, views: dict[str, Features]) -> None:
    counted = Counted(session)
    indices, confidence = match(counted, views["coffee"], views["moved"])
    assert counted.sizes == []
    full = session.match(views["coffee"], views["moved"]).matches
    assert len(indices) > 0.8 * len(full)
    common = {*map(tuple, indices.tolist())} & {*map(tuple, full.indices.tolist())}
    assert len(common) > 0.7 * len(indices)
    assert ((confidence > 0) & (confidence <= 1)).all()


def test_different_places_are_rejected_by_their_geometry(
    session: Session, views: dict[str, Features]
) -> None:
    counted = Counted(session)
    indices, confidence = match(counted, views["coffee"], views["camera"])
    ((rows, columns),) = counted.sizes
    assert rows == columns < 400  # mutual nearest descriptors
    assert indices.shape == (0, 2) and confidence.shape == (0,)


def test_the_second_stage_matches_mutual_nearest_descriptors(
    session: Session, views: dict[str, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching_cascade, "_MIN_SUPPORTED", np.inf)
    features0, features1 = views["coffee"], views["moved"]
    counted = Counted(session)
    indices, confidence = match(counted, features0, features1)
    nearest = nearest_neighbors(features0.descriptors, features1.descriptors)[0]
    assert counted.sizes == [(len(nearest), len(nearest))]
    full = session.match(features0, features1).matches
    common = {*map(tuple, indices.tolist())} & {*map(tuple, full.indices.tolist())}
    assert len(common) > 0.8 * len(indices) > 0.7 * len(full)
    assert {*indices[:, 1].tolist()} <= {*nearest[:, 1].tolist()}
    assert ((confidence > 0) & (confidence <= 1)).all()


def test_the_third_stage_matches_all_keypoints(
    session: Session, views: dict[str, Features], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching_cascade, "_MIN_SUPPORTED", np.inf)
    monkeypatch.setattr(matching_cascade, "_MUCH_SUPPORT", np.inf)
    counted = Counted(session)
    indices, confidence = match(counted, views["coffee"], views["moved"])
    assert counted.sizes[1:] == [(1200, 1200)]
    matches = session.match(views["coffee"], views["moved"]).matches
    assert (indices == matches.indices).all() and (confidence == matches.scores).all()


def test_few_keypoints_are_matched_at_once(session: Session, views: dict[str, Features]) -> None:
    few0, few1 = (first(views[name], 500) for name in ("coffee", "camera"))
    counted = Counted(session)
    indices, confidence = match(counted, few0, few1)
    assert counted.sizes == [(500, 500)]
    matches = session.match(few0, few1).matches
    assert (indices == matches.indices).all() and (confidence == matches.scores).all()
    none = first(few0, 0)
    assert len(match(session, none, few1)[0]) == 0


def test_the_cascade_needs_a_network_and_consensus_and_no_search(session: Session) -> None:
    assert is_applicable(session)
    assert not is_applicable(session.with_settings(consensus=None))
    assert not is_applicable(session.with_search("auto"))
    assert not is_applicable(fg.load(features="sift", matcher="nn"))


def test_match_files_with_and_without_the_cascade(
    tmp_path: Path, photographs: dict[str, np.ndarray]
) -> None:
    names = ["a.png", "b.png"]
    for name, shift in zip(names, (0, 7), strict=True):
        cv2.imwrite(str(tmp_path / name), np.roll(photographs["coffee"], shift, 1)[:240, :320])
    source = SessionSource(model="fast", options=OPTIONS)
    features = tmp_path / "features.h5"
    extract_features(tmp_path, features, names, source, workers=1)
    matches = {}
    for cascade in (True, False):
        output = tmp_path / f"{cascade}.h5"
        match_features(
            tmp_path, features, output, [("a.png", "b.png")], source, cascade=cascade, workers=1
        )
        with Store(output) as store:
            assert store.manifest["cascade"] is cascade
            version = matching_cascade.VERSION if cascade else 0
            assert store.manifest["cascade_version"] == version
            matches[cascade] = store.read(("a.png", "b.png")).arrays["matches0"]
    both = (matches[True] >= 0) & (matches[True] == matches[False])
    assert both.sum() > 0.7 * (matches[False] >= 0).sum()


def test_the_cascade_applies_to_a_feature_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["match", "a.png", "b.png", "--no-cascade"]) == 2
    assert "--no-cascade apply to a --feature-file" in capsys.readouterr().err

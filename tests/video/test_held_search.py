"""Matching of frames with one image under a view that a search found."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.errors import UsageError
from featherglue.session import Session, load
from featherglue.types import Features, MatchResult
from featherglue.video.frame_matching import FrameMatcher
from featherglue.video.frames import Frame
from featherglue.video.held_search import HeldSearch


@pytest.fixture(scope="module")
def session() -> Session:
    # With this threshold it matches an image that is upside down only with a search.
    return load("balanced", threads=1, max_keypoints=256, search="auto", match_threshold=0.8)


@pytest.fixture(scope="module")
def image(photographs: dict[str, np.ndarray]) -> np.ndarray:
    return cv2.resize(photographs["coffee"], (320, 240), interpolation=cv2.INTER_AREA)


def upside_down(image: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """The image rotated by 180° and shifted, and the homography onto it."""
    height, width = image.shape
    H = np.array([[-1.0, 0, width - 1 + shift], [0, -1, height - 1 + shift], [0, 0, 1]])
    return cv2.warpPerspective(image, H, (width, height)), H


def num_true(result: MatchResult, H: np.ndarray) -> int:
    there = cv2.perspectiveTransform(result.matches.points0[None].astype(float), H)[0]
    return int((np.hypot(*(there - result.matches.points1).T) < 3).sum())


def test_following_frames_are_matched_without_a_search(
    session: Session, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches = []
    match = Session.match

    def counted(self: Session, features0: Features, features1: Features) -> MatchResult:
        searches.append(self.search)
        return match(self, features0, features1)

    monkeypatch.setattr(Session, "match", counted)
    held, features = HeldSearch(session), session.extract(image)
    for shift in (0, 4, 8):
        frame, H = upside_down(image, shift)
        result = held.match(features, session.extract(frame))
        assert num_true(result, H) > 80
        assert result.search is not None
        assert abs(result.search.rotation) == pytest.approx(180, abs=2)
        assert result.features0.image is image
    assert searches.count("auto") == 1  # of the first frame
    upright = held.match(features, session.extract(image))
    assert num_true(upright, np.eye(3)) > 80
    assert searches.count("auto") == 2
    assert upright.search is None


def test_a_view_holds_although_a_search_has_more_keypoints(
    photographs: dict[str, np.ndarray],
) -> None:
    session = load("balanced", threads=1)
    image = cv2.resize(photographs["coffee"], (640, 480), interpolation=cv2.INTER_AREA)
    center = np.array([319.5, 239.5])
    H = np.eye(3)
    H[:2, :2] *= -0.8
    H[:2, 2] = center - H[:2, :2] @ center
    held, features = HeldSearch(session), session.extract(image)
    frame = session.extract(cv2.warpPerspective(image, H, (640, 480)))
    first, second = held.match(features, frame), held.match(features, frame)
    assert len(first.matches) > len(frame)
    assert "search" in first.milliseconds and "search" not in second.milliseconds
    assert num_true(second, H) > 100


def test_tracks_cannot_follow_a_search(session: Session) -> None:
    with pytest.raises(UsageError, match="`search` finds keypoints of its own"):
        FrameMatcher(session, tracking=True, search="auto")


def test_frames_are_searched_if_asked(session: Session, image: np.ndarray) -> None:
    frame, H = upside_down(image, 0)
    frames = [Frame(number=k, time=0.0, image=frame, name=str(k)) for k in range(2)]
    plain = FrameMatcher(session, reference=image, search="off")
    assert plain.session.search == "off"
    assert num_true(plain.process(frames[0]).result, H) < 20
    searching = FrameMatcher(session, reference=image)  # the mode of the session
    for item in map(searching.process, frames):
        assert num_true(item.result, H) > 80


def test_consecutive_frames_are_searched_only_if_asked(session: Session, image: np.ndarray) -> None:
    assert FrameMatcher(session).session.search == "off"
    assert FrameMatcher(session, tracking=True).session.search == "off"
    assert FrameMatcher(session, search="auto").session.search == "auto"
    assert FrameMatcher(session, against="anchor").session.search == "auto"


def test_searches_in_vain_pause(
    session: Session, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    match = Session.match

    def counted(self: Session, features0: Features, features1: Features) -> MatchResult:
        modes.append(self.search)
        return match(self, features0, features1)

    monkeypatch.setattr(Session, "match", counted)
    # A plain match must have fewer than 15 matches, which end the pause.
    strict = session.with_settings(match_threshold=0.9)
    held, features = HeldSearch(strict), session.extract(image)
    noise = np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8)
    stranger = session.extract(cv2.GaussianBlur(noise, (0, 0), 2))
    searched = []
    for number in range(12):
        modes.clear()
        held.match(features, stranger)
        if "auto" in modes:
            searched.append(number)
    assert searched == [0, 2, 5, 10]
    seen, _ = upside_down(image, 0)
    found = [held.match(features, session.extract(seen)).search is not None for _ in range(9)]
    assert found == [False] * 7 + [True] * 2

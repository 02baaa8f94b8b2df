"""Matching of consecutive frames."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from frame_sequences import frames

from featherglue.errors import ImageError, UsageError
from featherglue.io.image import Image
from featherglue.matching.stopwatch import Stopwatch
from featherglue.session import RawFeatures, Session
from featherglue.video import FrameMatcher, FrameMatches, match_frames, open_source


class Counting(Session):
    """A session that counts extractions."""

    def __init__(self, session: Session) -> None:
        super().__init__(session.extractor, session.matcher, session.processing, session.artifact)
        self.extracted = 0

    def run_extractor(self, image: Image, watch: Stopwatch | None = None) -> RawFeatures:
        self.extracted += 1
        return super().run_extractor(image, watch)


def shift(item: FrameMatches) -> np.ndarray:
    return np.median(item.matches.points1 - item.matches.points0, 0)


def test_each_frame_is_extracted_once_and_matched_with_the_previous_one(
    session: Session, moving: list[np.ndarray]
) -> None:
    counting = Counting(session)
    items = list(match_frames(counting, frames(moving)))
    assert counting.extracted == len(moving) == len(items)
    first = items[0]
    assert not first.matched
    assert (len(first.matches), first.against, first.dropped) == (0, None, 0)
    for before, item in pairwise(items):
        assert item.matched
        assert item.against == before.frame.number
        assert item.result.features0 is before.features
        assert len(item.matches) > 60
        np.testing.assert_allclose(shift(item), (-8, -8), atol=0.3)
        assert set(item.milliseconds) == {"read", "extract", "match", "refine", "total"}
        parts = sum(ms for name, ms in item.milliseconds.items() if name != "total")
        assert parts <= item.milliseconds["total"] < parts + 5  # and the time between the stages
    expected = session(moving[3], moving[4]).matches
    np.testing.assert_array_equal(items[4].matches.points1, expected.points1)


def test_lookahead_gives_the_same_matches(session: Session, moving: list[np.ndarray]) -> None:
    plain = list(match_frames(session, frames(moving)))
    early = list(match_frames(session, frames(moving), lookahead=True))
    assert [item.frame.number for item in early] == [item.frame.number for item in plain]
    for one, other in zip(early, plain, strict=True):
        np.testing.assert_array_equal(one.matches.points1, other.matches.points1)
        assert one.against == other.against


def test_consecutive_frames_are_completed_only_if_asked(
    session: Session, moving: list[np.ndarray]
) -> None:
    guided = session.with_settings(guided_matching=True)

    def completed(**options: bool | str) -> bool:
        items = list(match_frames(guided, frames(moving[:3]), **options))  # type: ignore[arg-type]
        return any("guided" in item.result.milliseconds for item in items)

    assert not completed()
    assert completed(guided_matching=True)
    assert completed(against="anchor")
    assert not completed(against="anchor", guided_matching=False)


def test_an_anchor_stays_until_the_next_anchor(session: Session, moving: list[np.ndarray]) -> None:
    matcher = FrameMatcher(session, against="anchor")
    against = []
    for item in matcher.run(frames(moving)):
        against.append(item.against)
        if item.matched:
            assert item.against is not None
            distance = item.frame.number - item.against
            np.testing.assert_allclose(shift(item), (-8 * distance, -8 * distance), atol=0.5)
        if item.frame.number == 3:
            matcher.anchor()
    assert against == [None, 0, 0, 0, 3, 3, 3, 3]


def test_a_blank_frame_does_not_become_the_anchor(
    classical: Session, moving: list[np.ndarray]
) -> None:
    blank = np.full_like(moving[0], 127)
    matcher = FrameMatcher(classical, against="anchor")
    against = []
    for item in matcher.run(frames([blank, moving[0], moving[1], blank, moving[2], moving[3]])):
        against.append(item.against)
        if item.frame.number == 3:
            matcher.anchor()
    assert against == [None, None, 1, 1, None, 4]
    with pytest.raises(ImageError, match="reference image has no keypoints"):
        FrameMatcher(classical, reference=blank)


def test_a_reference_image(session: Session, moving: list[np.ndarray], tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), moving[2])
    items = list(match_frames(session, frames(moving[:4]), reference=tmp_path / "a.png"))
    for i, item in enumerate(items):
        assert (item.matched, item.against) == (True, None)
        np.testing.assert_allclose(shift(item), (-8 * (i - 2), -8 * (i - 2)), atol=0.5)


def test_blank_frames_and_other_sizes(classical: Session, moving: list[np.ndarray]) -> None:
    blank = np.full_like(moving[0], 127)
    large = cv2.resize(moving[0], (332, 250))
    items = list(match_frames(classical, frames([moving[0], blank, moving[0], large, moving[1]])))
    assert [len(item.matches) > 0 for item in items] == [False, False, False, True, True]
    assert len(items[1].features) == 0
    assert all(item.matched for item in items[1:])
    assert items[3].features.image_size == (332, 250)


def test_arguments_that_exclude_each_other(session: Session, moving: list[np.ndarray]) -> None:
    for options in ({"against": "anchor"}, {"reference": moving[0]}):
        with pytest.raises(UsageError, match="previous frame"):
            FrameMatcher(session, tracking=True, **options)
    with pytest.raises(UsageError, match="'previous' or 'anchor'"):
        FrameMatcher(session, against="next")
    with pytest.raises(UsageError, match="no anchor possible"):
        FrameMatcher(session, tracking=True).anchor()


def test_frames_of_a_folder(session: Session, moving: list[np.ndarray], tmp_path: Path) -> None:
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), moving[i])
    with open_source(tmp_path) as source:
        items = list(match_frames(session, source))
    assert [item.frame.name for item in items] == ["0.png", "1.png", "2.png"]
    assert all(item.milliseconds["read"] > 0 for item in items)


def test_arrays_and_captures_are_matched_like_frames(
    session: Session, moving: list[np.ndarray]
) -> None:
    expected = [shift(item) for item in list(match_frames(session, frames(moving[:3])))[1:]]
    found = [shift(item) for item in list(match_frames(session, moving[:3]))[1:]]
    np.testing.assert_array_equal(found, expected)

    class Capture:
        def __init__(self) -> None:
            self.left, self.released = list(moving[:3]), False

        def read(self) -> tuple[bool, np.ndarray | None]:
            return (True, self.left.pop(0)) if self.left else (False, None)

        def grab(self) -> bool:
            return self.read()[0]

        def get(self, propId: int) -> float:
            return 0.0

        def release(self) -> None:
            self.released = True

    captured = [shift(item) for item in list(match_frames(session, Capture()))[1:]]
    np.testing.assert_array_equal(captured, expected)
    with pytest.raises(UsageError, match=r"not str; pass open_source"):
        list(match_frames(session, "walk.mp4"))

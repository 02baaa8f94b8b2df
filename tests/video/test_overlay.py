"""Pictures of frames: matches, tracks and text."""

from __future__ import annotations

import numpy as np
import pytest
from frame_sequences import frames

from featherglue.session import Session
from featherglue.video import FrameMatcher, FrameMatches, Tracker
from featherglue.video.overlay import captions, draw_frame, write_lines


@pytest.fixture
def items(classical: Session, moving: list[np.ndarray]) -> list[FrameMatches]:
    """Four frames; the last one is blank."""
    pictures = [*moving[:3], np.full_like(moving[0], 90)]
    return list(FrameMatcher(classical, tracking=True).run(frames(pictures)))


def test_matches_are_drawn_side_by_side_and_tracks_on_the_frame(items: list[FrameMatches]) -> None:
    height, width = items[0].frame.image.shape
    for item in items:
        assert draw_frame(item).shape == (height, 2 * width + 8, 3)
    assert draw_frame(items[0], max_side=200).shape[1] <= 200
    tracker = Tracker()
    tracks = [tracker.update(item) for item in items]
    pictures = [
        draw_frame(item, track, min_track_length=2)
        for item, track in zip(items, tracks, strict=True)
    ]
    for item, picture in zip(items, pictures, strict=True):
        assert picture.shape == (height, width, 3)
        assert np.abs(picture.astype(int).max(2) - item.frame.image).mean() < 60
    colored = [int((picture.max(2) != picture.min(2)).sum()) for picture in pictures]
    assert colored[0] == colored[3] == 0  # no track of two frames; a blank frame
    assert 200 < colored[1] < colored[2]
    with_keypoints = draw_frame(items[0], tracks[0], keypoints=True, min_track_length=2)
    assert (with_keypoints != pictures[0]).any()


def test_captions(items: list[FrameMatches]) -> None:
    recent = {"extract": 20.04, "match": 12.0, "refine": 3.0, "total": 36.0}
    first, second, _, blank = (captions(item, recent, 24.96) for item in items)
    assert first[0] == "25.0 frames/s   extract 20.0  match 12.0  refine 3.0  total 36.0 ms"
    assert first[2] == "no matches: this is the first frame"
    assert len(second) == 2
    refined = int(items[1].matches.refined.sum())
    assert f"matches {len(items[1].matches)} ({refined} refined)" in second[1]
    assert blank[2] == "no keypoints: the frame is blank or blurred"
    assert "frames/s" not in captions(items[0], recent, 0.0)[0]
    every = {"read": 2.0, "show": 7.0, "total": 38.0} | recent
    assert captions(items[1], every, 0.0)[0].startswith("read 2.0  extract 20.0  match")
    assert captions(items[1], every, 0.0)[0].endswith("total 36.0  show 7.0 ms")


def test_the_caption_of_a_frame_after_a_blank_one(
    classical: Session, moving: list[np.ndarray]
) -> None:
    pictures = [np.full_like(moving[0], 90), moving[0]]
    *_, last = FrameMatcher(classical).run(frames(pictures))
    assert captions(last, {}, 0.0)[2] == "no matches: the other frame has no keypoints"


@pytest.mark.parametrize("shape", [(480, 640), (480, 1288), (100, 120), (20, 12), (1500, 2000)])
@pytest.mark.parametrize("at_bottom", [False, True])
def test_text_fits_the_picture(shape: tuple[int, int], at_bottom: bool) -> None:
    canvas = np.full((*shape, 3), 200, np.uint8)
    lines = ["25.0 frames/s   extract 20.0  match 12.0  refine 3.0  total 36.0 ms"] * 2
    write_lines(canvas, lines, at_bottom=at_bottom)
    changed = np.flatnonzero((canvas != 200).any((1, 2)))
    assert len(changed) > 0
    if min(shape) >= 400:
        half = slice(shape[0] // 2) if at_bottom else slice(shape[0] // 2, None)
        assert (canvas[half] == 200).all()
        assert canvas.max() == 255  # white text
    untouched = np.full((*shape, 3), 200, np.uint8)
    write_lines(untouched, [], at_bottom=at_bottom)
    assert (untouched == 200).all()

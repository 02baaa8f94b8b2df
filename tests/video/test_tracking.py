"""Tracks of points over frames."""

from __future__ import annotations

import numpy as np
from frame_sequences import frames

from featherglue.session import Session
from featherglue.video import Tracker, match_frames


def test_tracks_follow_a_known_translation(session: Session, moving: list[np.ndarray]) -> None:
    tracker, starts, errors = Tracker(trail=4), {}, []
    for item in match_frames(session, frames(moving), tracking=True):
        tracks = tracker.update(item)
        number = item.frame.number
        assert len(np.unique(tracks.ids)) == len(tracks) == len(item.features)
        assert tracks.lengths.max() == number + 1
        back = tracks.positions + np.float32(
            [8 * number, 8 * number]
        )  # position in the first frame
        for track, length, point, trail in zip(
            tracks.ids, tracks.lengths, back, tracks.trails, strict=True
        ):
            if length == 1:
                starts[track] = point
            errors.append(np.linalg.norm(point - starts[track]))
            assert np.isfinite(trail[:length]).all()
            assert np.isnan(trail[length:]).all()
    assert (tracks.lengths == len(moving)).sum() > 30
    assert np.mean(np.array(errors) < 0.5) > 0.9


def test_tracks_restart_after_a_blank_frame(classical: Session, moving: list[np.ndarray]) -> None:
    tracker = Tracker()
    pictures = [moving[0], moving[1], np.zeros_like(moving[0]), moving[2], moving[3]]
    items = match_frames(classical, frames(pictures), tracking=True)
    tracks = [tracker.update(item) for item in items]
    assert [t.lengths.max() if len(t) else 0 for t in tracks] == [1, 2, 0, 1, 2]
    assert not set(tracks[1].ids) & set(tracks[3].ids)


def test_tracks_restart_if_the_frame_was_matched_with_another_one(
    session: Session, moving: list[np.ndarray]
) -> None:
    tracker = Tracker()
    items = match_frames(session, frames(moving[:4]), against="anchor")
    assert [tracker.update(item).lengths.max() for item in items] == [1, 2, 1, 1]

"""Tracks of points: chains of keypoints, each matched with the one in the previous frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.types import Features
from featherglue.video.frame_matching import FrameMatches


@dataclass(frozen=True, kw_only=True, eq=False)
class Tracks:
    """The tracks through one frame, one for each keypoint.

    Attributes:
        ids: (N,) int64, unique over the whole run.
        lengths: (N,) int64, number of frames of the track so far, including this one.
        positions: (N, 2) float32, (x, y) in pixels of this frame.
        trails: (N, T, 2) float32, positions in this frame and back in time; NaN before the start
            of the track.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    positions: NDArray[np.float32]
    trails: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


class Tracker:
    """Chains matches of consecutive frames to tracks.

    Args:
        trail: number of past positions T that `Tracks.trails` keeps for drawing.
    """

    def __init__(self, trail: int = 20) -> None:
        self._trail = trail
        self._tracks: Tracks | None = None
        self._features: Features | None = None
        self._next = 0

    def update(self, item: FrameMatches) -> Tracks:
        """The tracks through a frame.

        Tracks continue if the frame was matched with the frame of the previous call; otherwise
        every keypoint starts a new track.
        """
        features, indices = item.features, item.matches.indices
        count = len(features)
        lengths = np.ones(count, np.int64)
        trails = np.full((count, self._trail, 2), np.nan, np.float32)
        trails[:, 0] = features.keypoints
        ids = np.full(count, -1, np.int64)
        previous = self._tracks
        if previous is not None and item.result.features0 is self._features:
            old, new = indices.T
            ids[new] = previous.ids[old]
            lengths[new] = previous.lengths[old] + 1
            trails[new, 1:] = previous.trails[old, :-1]
        new_tracks = ids < 0
        ids[new_tracks] = np.arange(self._next, self._next + new_tracks.sum())
        self._next += int(new_tracks.sum())
        self._features = features
        self._tracks = Tracks(ids=ids, lengths=lengths, positions=features.keypoints, trails=trails)
        return self._tracks

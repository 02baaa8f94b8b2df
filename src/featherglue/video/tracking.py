"""Identities over frames: a track is a chain of keypoints, each matched with the one before."""

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
        lengths: (N,) int64, frames that the track has so far, this one included.
        positions: (N, 2) float32 xy pixels in this frame.
        trails: (N, T, 2) float32 xy pixels, this frame first, then back in time; NaN before the
            track began.
    """

    ids: NDArray[np.int64]
    lengths: NDArray[np.int64]
    positions: NDArray[np.float32]
    trails: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.ids)


class Tracker:
    """Gives the keypoints of each frame the identities of those that they were matched with.

    Args:
        trail: T, how many positions back are kept for drawing.
    """

    def __init__(self, trail: int = 20) -> None:
        self._trail = trail
        self._tracks: Tracks | None = None
        self._features: Features | None = None
        self._next = 0

    def update(self, item: FrameMatches) -> Tracks:
        """The tracks through this frame.

        Matches with anything but the frame of the last call start every track anew.
        """
        features, indices = item.features, item.matches.indices
        count = len(features)
        lengths = np.ones(count, np.int64)
        trails = np.full((count, self._trail, 2), np.nan, np.float32)
        trails[:, 0] = features.keypoints
        ids = np.full(count, -1, np.int64)
        before = self._tracks
        if before is not None and item.result.features0 is self._features:
            old, new = indices.T
            ids[new] = before.ids[old]
            lengths[new] = before.lengths[old] + 1
            trails[new, 1:] = before.trails[old, :-1]
        fresh = ids < 0
        ids[fresh] = np.arange(self._next, self._next + fresh.sum())
        self._next += int(fresh.sum())
        self._features = features
        self._tracks = Tracks(ids=ids, lengths=lengths, positions=features.keypoints, trails=trails)
        return self._tracks

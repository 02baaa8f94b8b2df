"""A pair of feature sets in guided matching, and assignment near predicted places.

Shape legend: M matches, F0 and F1 unmatched keypoints of both images, G new matches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.consensus import LocalMaps
from featherglue.matching.scaled_refinement import refine_at_scales
from featherglue.matching.scratch import Scratch
from featherglue.matching.subpixel import RefineConfig
from featherglue.matching.working_size import working_factor
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
_ARRAYS = ("indices", "scores", "points0", "points1", "refined")
# The start is accurate and the appearance may have changed: a large window, a low correlation.
_ALIGNMENT = RefineConfig(window=15, iterations=6, pull=1.0, min_correlation=0.4)
_MAX_SCALE = 3.0  # ratio of scales up to which windows are aligned: larger ones need a warped image


@dataclass(frozen=True, eq=False)
class GuidedPair:
    """Features of a pair, and how to align their points.

    Attributes:
        features0, features1: the features.
        factors: by which the images were reduced for extraction.
        images: the images; None if points are not refined.
        scratch: buffers.
    """

    features0: Features
    features1: Features
    factors: tuple[float, float]
    images: tuple[Gray, Gray] | None
    scratch: Scratch

    @staticmethod
    def of(result: MatchResult, processing: ProcessingConfig, scratch: Scratch) -> GuidedPair:
        """The pair of a result.

        Args:
            result: its features count.
            processing: settings of the session that matched.
            scratch: buffers.
        """
        features = result.features0, result.features1
        factors: Any = tuple(working_factor(one.image_size, processing) for one in features)
        image0, image1 = (one.image for one in features)
        given = processing.refine and image0 is not None and image1 is not None
        images: Any = (image0, image1) if given else None
        return GuidedPair(*features, factors, images, scratch)

    def reduced(self, matches: Matches) -> tuple[Float, Float]:
        """The points of matches in pixels of the reduced images."""
        return self._reduced(matches.points0, matches.points1)

    def keypoints(self) -> tuple[Float, Float]:
        """The keypoints in pixels of the reduced images."""
        return self._reduced(self.features0.keypoints, self.features1.keypoints)

    def _reduced(self, first: Float, second: Float) -> tuple[Float, Float]:
        return tuple(
            points if factor == 1 else points * np.float32(factor)
            for points, factor in zip((first, second), self.factors, strict=True)
        )  # type: ignore[return-value]

    def unmatched(self, matches: Matches) -> tuple[Index, Index]:
        """Indices (F0,) and (F1,) of the keypoints without a match."""
        return tuple(
            np.flatnonzero(~np.isin(np.arange(len(features)), matches.indices[:, view]))
            for view, features in enumerate((self.features0, self.features1))
        )  # type: ignore[return-value]

    def similarity(self, free0: Index, free1: Index) -> Float:
        """Cosines (F0, F1) of the descriptors of keypoints."""
        descriptors0, descriptors1 = self.features0.descriptors, self.features1.descriptors
        return np.asarray(descriptors0[free0] @ descriptors1[free1].T, np.float32)

    def matches_of(self, pairs: Index, scores: NDArray[np.floating]) -> Matches:
        """Matches of keypoints, not aligned.

        Args:
            pairs: (G, 2) indices of keypoints.
            scores: (G,) their confidence.
        """
        return Matches(
            indices=pairs,
            scores=np.asarray(scores, np.float32),
            points0=self.features0.keypoints[pairs[:, 0]],
            points1=self.features1.keypoints[pairs[:, 1]],
            refined=np.zeros(len(pairs), np.bool_),
        )

    def align(self, matches: Matches, places: Float, linear: Float) -> Matches:
        """Align image 1 to image 0 at matches.

        Args:
            matches: M matches.
            places: (M, 2) where the alignment starts, pixels of the reduced image 1.
            linear: (M, 2, 2) local maps from the reduced image 0 to the reduced image 1.
        """
        if self.images is None or not len(matches):
            return matches
        keypoints = self.features1.keypoints[matches.indices[:, 1]]
        offsets = (places - keypoints * np.float32(self.factors[1])).T
        maps = LocalMaps(linear, np.ascontiguousarray(offsets), np.zeros(len(matches), np.float32))
        moved, aligned = refine_at_scales(
            *self.images, matches.points0, keypoints, self.factors, self.scratch, maps, _ALIGNMENT
        )
        aligned &= np.abs(np.log(np.abs(np.linalg.det(linear)))) < 2 * np.log(_MAX_SCALE)
        points1 = np.where(aligned[:, None], moved, matches.points1)
        return replace(matches, points1=points1, refined=matches.refined | aligned)

    def refine_again(self, matches: Matches) -> Matches:
        """Refine matches once more: local maps of refined points are more accurate."""
        if self.images is None:
            return matches
        points1, aligned = refine_at_scales(
            *self.images, matches.points0, matches.points1, self.factors, self.scratch, None
        )
        return replace(matches, points1=points1, refined=matches.refined | aligned)


def squared_distances(places: NDArray[Any], keypoints: Float, radius: Any) -> NDArray[Any]:
    """Squared distances (F0, F1) of keypoints from predicted places, relative to a radius.

    Args:
        places: (F0, 2) predicted places in image 1.
        keypoints: (F1, 2) in image 1.
        radius: px, a number or (F0, 1).
    """
    x, y = keypoints.T
    squares = np.square(places[:, :1] - x) + np.square(places[:, 1:] - y)
    return np.asarray(squares / np.square(radius))


def mutually_best(worth: NDArray[Any]) -> tuple[Index, Index]:
    """Rows (G,) and columns (G,) that are each other's best.

    Args:
        worth: (F0, F1) of each pair; −inf for impossible ones.
    """
    if not worth.size:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    best, rows = worth.argmax(1), np.arange(len(worth))
    mutual = worth[rows, best] == worth.max(0)[best]
    mutual &= np.isfinite(worth[rows, best])
    return rows[mutual], best[mutual]


def joined(first: Matches, second: Matches) -> Matches:
    """The matches of both, in this order."""
    arrays: dict[str, Any] = {
        name: np.concatenate((getattr(first, name), getattr(second, name))) for name in _ARRAYS
    }
    return Matches(**arrays)

"""A pair of feature sets in guided matching, and assignment near predicted places.

Shape legend: M matches, F0 and F1 unmatched keypoints of both images, C candidates for new matches,
G new matches.
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
from featherglue.matching.working_size import reduced_points, working_factor
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
# The start is accurate and the appearance may have changed: a large window, a low correlation.
_ALIGNMENT = RefineConfig(window=15, iterations=6, pull=1.0, min_correlation=0.4)
ADDED_CONFIDENCE = 0.2  # confidence of an added match with the similarity 1
_MAX_SCALE = 3.0  # ratio of scales up to which windows are aligned: larger ones need a warped image


@dataclass(frozen=True, eq=False)
class GuidedPair:
    """Features of a pair, and how to align their points.

    Attributes:
        features0, features1: the features.
        factors: by which the images were reduced for extraction.
        images: the images; without them, points stay as they are.
        scratch: buffers.
        adds: whether matches are added: the match threshold is at most their confidence.
    """

    features0: Features
    features1: Features
    factors: tuple[float, float]
    images: tuple[Gray, Gray] | None
    scratch: Scratch
    adds: bool

    @staticmethod
    def of(result: MatchResult, processing: ProcessingConfig, scratch: Scratch) -> GuidedPair:
        """The pair of a result.

        Args:
            result: the features.
            processing: settings of the session that matched.
            scratch: buffers.
        """
        features = result.features0, result.features1
        factors: Any = tuple(working_factor(one.image_size, processing) for one in features)
        image0, image1 = (one.image for one in features)
        images: Any = None if image0 is None or image1 is None else (image0, image1)
        adds = processing.match_threshold <= ADDED_CONFIDENCE
        return GuidedPair(*features, factors, images, scratch, adds)

    def reduced(self, matches: Matches) -> tuple[Float, Float]:
        """The points of matches in pixels of the reduced images."""
        return reduced_points(matches.points0, matches.points1, self.factors)

    def keypoints(self) -> tuple[Float, Float]:
        """The keypoints in pixels of the reduced images."""
        both = self.features0.keypoints, self.features1.keypoints
        return reduced_points(*both, self.factors)

    def unmatched(self, matches: Matches) -> tuple[Index, Index]:
        """Indices (F0,) and (F1,) of the keypoints without a match."""
        return tuple(
            np.flatnonzero(~np.isin(np.arange(len(features)), matches.indices[:, view]))
            for view, features in enumerate((self.features0, self.features1))
        )  # type: ignore[return-value]

    def assign(
        self, near: Candidates, free0: Index, free1: Index, min_similarity: float, penalty: float
    ) -> tuple[Matches, Candidates]:
        """Matches of the candidates that are mutually the most similar, not aligned.

        Args:
            near: candidates among the unmatched keypoints.
            free0, free1: (F0,) and (F1,) indices of the unmatched keypoints.
            min_similarity: minimum cosine of the descriptors.
            penalty: reduction of the similarity at the maximum distance from the predicted place;
                it grows with the square of the distance.

        Returns:
            G matches, and their candidates.
        """
        indices = np.stack((free0[near.rows], free1[near.columns]), 1)
        descriptors0 = self.features0.descriptors[indices[:, 0]]
        descriptors1 = self.features1.descriptors[indices[:, 1]]
        similarity = np.einsum("cd,cd->c", descriptors0, descriptors1)
        alike = similarity > min_similarity
        near, indices, similarity = near[alike], indices[alike], similarity[alike]
        best = near.mutually_best(similarity - penalty * near.squares)
        indices = indices[best]
        matches = Matches(
            indices=indices,
            scores=np.float32(ADDED_CONFIDENCE) * np.minimum(similarity[best], 1),
            points0=self.features0.keypoints[indices[:, 0]],
            points1=self.features1.keypoints[indices[:, 1]],
            refined=np.zeros(len(indices), np.bool_),
        )
        return matches, near[best]

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
        area = np.abs(np.linalg.det(linear))
        aligned &= (area < _MAX_SCALE**2) & (area > _MAX_SCALE**-2)
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


@dataclass(frozen=True, eq=False)
class Candidates:
    """C pairs of unmatched keypoints that may belong together.

    Attributes:
        rows: (C,) indices among the F0 keypoints.
        columns: (C,) indices among the F1 keypoints.
        squares: (C,) float, squared distance from the predicted place, relative to the radius.
    """

    rows: Index
    columns: Index
    squares: NDArray[np.floating]

    @staticmethod
    def near(places: NDArray[np.floating], keypoints: Float, radius: Any) -> Candidates:
        """Keypoints nearer to predicted places than a radius.

        Args:
            places: (F0, 2) px, predicted places in image 1; those that are not finite have none.
            keypoints: (F1, 2) px, in image 1.
            radius: px, a number or (F0,).
        """
        order = np.argsort(keypoints[:, 0], kind="stable")
        sorted_x = keypoints[order, 0]
        first = np.searchsorted(sorted_x, places[:, 0] - radius)
        counts = np.searchsorted(sorted_x, places[:, 0] + radius) - first
        counts = np.where(np.isfinite(places).all(1), np.maximum(counts, 0), 0)
        rows = np.repeat(np.arange(len(places)), counts)
        starts = np.cumsum(counts) - counts
        columns = order[np.arange(len(rows)) - np.repeat(starts - first, counts)]
        squares = np.square(places[rows] - keypoints[columns]).sum(1)
        squares = squares / np.square(np.broadcast_to(radius, len(places))[rows])
        return Candidates(rows, columns, squares)[squares < 1]

    def __getitem__(self, chosen: Mask) -> Candidates:
        return Candidates(self.rows[chosen], self.columns[chosen], self.squares[chosen])

    def mutually_best(self, quality: NDArray[np.floating]) -> Mask:
        """Which candidates are the best of both of their keypoints.

        Args:
            quality: (C,) of each candidate.

        Returns:
            (C,) bool; no keypoint is in two of the chosen candidates.
        """
        ranking = np.argsort(-quality, kind="stable")
        best = np.ones(len(quality), np.bool_)
        for keypoints in (self.rows, self.columns):
            is_first = np.zeros(len(quality), np.bool_)
            is_first[ranking[np.unique(keypoints[ranking], return_index=True)[1]]] = True
            best &= is_first
        return best

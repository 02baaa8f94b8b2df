"""Real pairs from a match file of any extractor and matcher, verified by epipolar geometry."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.data.feature_files import FeatureFile, Float
from featherglue.data.match_files import MatchFile
from featherglue.data.photographs import PhotoFolder
from featherglue.data.real_pairs import MIN_MATCHES, RealPair, fit_fundamentals
from featherglue.errors import EstimationError
from featherglue.geometry.estimation import estimate_fundamental

_THRESHOLD = 1.5  # pixels of the photographs


class MatchedPairs:
    """The pairs of a match file in hloc's layout.

    A pair is verified when it is read: matches farther than 1.5 px from one fundamental matrix are
    discarded. The overlap of a pair is the number of its matches over the smaller number of
    keypoints.

    Args:
        photos: the photographs.
        features: file with the keypoints of the photographs.
        matches: file with the matches between them. Pairs with a photograph that `photos` lacks are
            ignored.

    Raises:
        TrainingError: a photograph of a pair has no features.
    """

    def __init__(self, photos: PhotoFolder, features: FeatureFile, matches: MatchFile) -> None:
        self.features, self.matches = features, matches
        self._numbers = {name: number for number, name in enumerate(photos.names)}
        names = {name for pair in matches.pairs for name in pair}
        features.check_names(names)
        counts = {name: features.num_keypoints(name) for name in names}
        self.overlaps = np.array(
            [
                len(matches[index]) / max(1, min(counts[name] for name in pair))
                for index, pair in enumerate(matches.pairs)
            ]
        )

    def __getitem__(self, index: int) -> RealPair | None:
        """Pair `index`; None if it has fewer than `MIN_MATCHES` verified matches.

        Raises:
            TrainingError: the features do not fit the matches.
        """
        names, matches = self.matches.pairs[index], self.matches[index]
        if len(matches) < MIN_MATCHES:
            return None
        points0, points1 = (self._matched(n, matches[:, view]) for view, n in enumerate(names))
        try:
            found = estimate_fundamental(points0, points1, threshold=_THRESHOLD)
        except EstimationError:
            return None
        if found.num_inliers < MIN_MATCHES:
            return None
        points0, points1 = points0[found.inliers], points1[found.inliers]
        return RealPair(
            numbers=(self._numbers[names[0]], self._numbers[names[1]]),
            points0=points0,
            points1=points1,
            fundamentals=fit_fundamentals(points0, points1, found.model),
        )

    def _matched(self, name: str, indices: NDArray[np.int64]) -> Float:
        """The keypoints `indices` (M,) of a photograph, (M, 2) xy."""
        keypoints = self.features.keypoints(name)
        self.matches.check_indices(name, indices, len(keypoints))
        return keypoints[indices]

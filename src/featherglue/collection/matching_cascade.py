"""A cascade of three stages: most pairs of a collection do not need the whole matcher.

1. Mutual nearest descriptors that their neighbors support. A pair with enough of them is done: the
   matcher would find about as many.
2. The matcher with the keypoints of the mutual nearest descriptors, and one epipolar geometry. A
   pair with few inliers shows different places and is rejected; a pair with many is done.
3. The matcher with all keypoints. Pairs with few keypoints are matched by it at once: a model needs
   all of their matches.

The bounds were chosen with scenes for training, the minimum number of keypoints with those for
validation. The minimum support keeps the pairs that a model can use: of 3,171 pairs of 15 scenes
with a support of 12.5 to 50, it rejects 36 %, and none of the 189 that COLMAP verifies in the end.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.quick_estimates import count_epipolar_inliers
from featherglue.matching.assignment import nearest_neighbors
from featherglue.matching.consensus import filter_by_consensus
from featherglue.session import Session
from featherglue.types import Features

Index = NDArray[np.int64]

VERSION = 6  # of the rules below: files of other ones are not continued
_MIN_KEYPOINTS = 512  # of both images; with fewer, nearest descriptors miss true pairs
_MIN_SUPPORTED = 100  # nearest descriptors that end the first stage
_MAX_DISTANCE = 4.0  # px, of an inlier from its epipolar line, as for COLMAP
_NUM_SAMPLES = 500
_CHANCE = 0.05  # share of wrong matches that agree with the geometry
_MIN_SUPPORT = 20.0  # inliers beyond chance of the second stage; a pair with fewer is rejected
_MUCH_SUPPORT = 50.0  # of a pair that the second stage ends


def is_applicable(session: Session) -> bool:
    """Whether the cascade fits a session: a network with consensus, and no search."""
    return (
        session.search == "off"
        and session.matcher.gives_probabilities
        and session.processing.consensus is not None
    )


def match_by_cascade(
    session: Session, features0: Features, features1: Features
) -> tuple[Index, NDArray[np.float32]]:
    """Match two images.

    Args:
        session: the matcher of the later stages.
        features0, features1: the features.

    Returns:
        Indices (M, 2) of the matched keypoints, and confidences (M,): cosine similarities of the
        first stage, probabilities of the others.
    """
    fewest = min(len(features0), len(features1))
    if fewest >= _MIN_KEYPOINTS:
        indices, cosines = nearest_neighbors(features0.descriptors, features1.descriptors)
        points0, points1 = features0.keypoints[indices[:, 0]], features1.keypoints[indices[:, 1]]
        kept, _ = filter_by_consensus(points0, points1, cosines, np.inf)
        if len(kept) >= _MIN_SUPPORTED:
            return indices[kept], cosines[kept]
        found, scores = _match_selected(session, features0, features1, indices)
        support = _support(features0, features1, found)
        if support < _MIN_SUPPORT:
            return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        if support >= _MUCH_SUPPORT:
            return found, scores
    matches = session.match(features0, features1).matches
    return matches.indices, matches.scores


def _match_selected(
    session: Session, features0: Features, features1: Features, pairs: Index
) -> tuple[Index, NDArray[np.float32]]:
    """Match the keypoints of these pairs (M, 2) only, any of them with any."""
    rows, columns = pairs[:, 0], np.sort(pairs[:, 1])
    matches = session.match(_selected(features0, rows), _selected(features1, columns)).matches
    first, second = matches.indices.T
    return np.stack((rows[first], columns[second]), 1), matches.scores


def _selected(features: Features, rows: Index) -> Features:
    return Features(
        keypoints=features.keypoints[rows],
        scores=features.scores[rows],
        descriptors=features.descriptors[rows],
        image_size=features.image_size,
    )


def _support(features0: Features, features1: Features, indices: Index) -> float:
    """Number of matches that agree with one epipolar geometry, beyond chance."""
    points0, points1 = features0.keypoints[indices[:, 0]], features1.keypoints[indices[:, 1]]
    inliers = count_epipolar_inliers(points0, points1, _MAX_DISTANCE, _NUM_SAMPLES)
    return inliers - _CHANCE * len(indices)

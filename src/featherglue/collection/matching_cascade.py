"""A cascade of three stages: most pairs of a collection do not need the whole matcher.

1. Mutual nearest descriptors that their neighbors support. A pair with enough of them is done: the
   matcher would find about as many.
2. The matcher with the strongest keypoints. A pair without enough confident matches shows different
   places and is rejected.
3. The matcher with all keypoints. Pairs with few keypoints are matched by it at once.

The bounds were chosen with scenes for training: of the pairs that COLMAP verifies with the matcher
alone, about 99 % have matches.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.matching.assignment import nearest_neighbors
from featherglue.matching.consensus import filter_by_consensus
from featherglue.session import Session
from featherglue.types import Features

_MIN_KEYPOINTS = 512  # of both images; the matcher is fast with fewer
_MIN_SUPPORTED = 30  # nearest descriptors that end the first stage
_NUM_STRONGEST = 512  # keypoints of the second stage
_MIN_REJECTION = 768  # keypoints of both images for the second stage
_MIN_CONFIDENCE = 7.0  # sum over the matches of the second stage


def is_applicable(session: Session) -> bool:
    """Whether the cascade fits a session: a network with consensus, and no search."""
    return (
        session.search == "off"
        and session.matcher.gives_probabilities
        and session.processing.consensus is not None
    )


def match_by_cascade(
    session: Session, features0: Features, features1: Features
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Match two images.

    Args:
        session: the matcher of the later stages.
        features0, features1: the features.

    Returns:
        Indices (M, 2) of the matched keypoints, and confidences (M,): cosine similarities of the
        first stage, probabilities of the third one.
    """
    fewest = min(len(features0), len(features1))
    if fewest >= _MIN_KEYPOINTS:
        indices, cosines = nearest_neighbors(features0.descriptors, features1.descriptors)
        points0, points1 = features0.keypoints[indices[:, 0]], features1.keypoints[indices[:, 1]]
        kept, _ = filter_by_consensus(points0, points1, cosines, np.inf)
        if len(kept) >= _MIN_SUPPORTED:
            return indices[kept], cosines[kept]
        if fewest >= _MIN_REJECTION:
            strongest = session.match(_strongest(features0), _strongest(features1)).matches
            if strongest.scores.sum() < _MIN_CONFIDENCE:
                return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    matches = session.match(features0, features1).matches
    return matches.indices, matches.scores


def _strongest(features: Features) -> Features:
    order = np.sort(np.argsort(-features.scores, kind="stable")[:_NUM_STRONGEST])
    return Features(
        keypoints=features.keypoints[order],
        scores=features.scores[order],
        descriptors=features.descriptors[order],
        image_size=features.image_size,
    )

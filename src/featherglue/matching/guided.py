"""Guided matching: partners for unmatched keypoints, near the places that the matches predict.

Where one homography explains most matches, it predicts where the other keypoints lie in
image 1 (guided matching: Hartley and Zisserman 2004, algorithm 4.6). An unmatched keypoint is
assigned to an unmatched one near its predicted place if their descriptors are mutually the most
similar ones there.

Shape legend: M matches, F unmatched keypoints, G new matches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.blas_buffer import take_blas_buffer
from featherglue.geometry.local_optimization import optimize_homography
from featherglue.geometry.projection import warp_points
from featherglue.matching.consensus import fit_local_maps
from featherglue.matching.scaled_refinement import refine_at_scales
from featherglue.matching.scratch import Scratch
from featherglue.matching.working_size import working_factor
from featherglue.options import ProcessingConfig
from featherglue.types import Features, Matches, MatchResult

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Matrix = NDArray[np.float64]
_ARRAYS = ("indices", "scores", "points0", "points1", "refined")


@dataclass(frozen=True, kw_only=True)
class GuidedConfig:
    """Settings of guided matching. The defaults were chosen on training photographs.

    Attributes:
        min_matches: minimum number of matches that determine the homography.
        min_explained: minimum ratio of matches that agree with it.
        radius: px in image 1, maximum distance of a keypoint from the predicted place, and of a
            match that agrees.
        min_similarity: minimum cosine of the descriptors.
        penalty: reduction of the similarity at a distance of `radius`; it grows with the square.
        score: confidence of a new match with the similarity 1.
    """

    min_matches: int = 20
    min_explained: float = 0.7
    radius: float = 3.0
    min_similarity: float = 0.3
    penalty: float = 0.3
    score: float = 0.2


def complete(
    result: MatchResult,
    processing: ProcessingConfig,
    scratch: Scratch,
    config: GuidedConfig | None = None,
) -> MatchResult:
    """Add guided matches to a result, refined if the features contain their images.

    Args:
        result: most of its matches must be true. They stay as they are.
        processing: settings of the session that matched.
        scratch: buffers.
        config: settings; None uses the defaults.
    """
    factors = (
        working_factor(result.features0.image_size, processing),
        working_factor(result.features1.image_size, processing),
    )
    features0, features1 = (
        _reduced(result.features0, factors[0]),
        _reduced(result.features1, factors[1]),
    )
    old = replace(
        result.matches,
        points0=result.matches.points0 * np.float32(factors[0]),
        points1=result.matches.points1 * np.float32(factors[1]),
    )
    new = guided_matches(features0, features1, old, config or GuidedConfig())
    if not len(new):
        return result
    points0 = result.features0.keypoints[new.indices[:, 0]]
    points1 = result.features1.keypoints[new.indices[:, 1]]
    refined = new.refined
    image0, image1 = result.features0.image, result.features1.image
    if processing.refine and image0 is not None and image1 is not None:
        joined = _joined(old, new)
        maps = fit_local_maps(joined.points0, joined.points1)[np.arange(len(old), len(joined))]
        points1, refined = refine_at_scales(
            image0, image1, points0, points1, factors, scratch, maps
        )
    new = replace(new, points0=points0, points1=points1, refined=refined)
    return replace(result, matches=_joined(result.matches, new))


def guided_matches(
    features0: Features, features1: Features, matches: Matches, config: GuidedConfig
) -> Matches:
    """Match unmatched keypoints near the places that the homography of the matches predicts.

    Args:
        features0, features1: the keypoints.
        matches: their matches.
        config: settings.

    Returns:
        G new matches, not refined; none if no homography explains the matches.
    """
    free0 = _unmatched(len(features0), matches.indices[:, 0])
    free1 = _unmatched(len(features1), matches.indices[:, 1])
    pairs, scores = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if len(free0) and len(free1):
        H = _explaining_homography(matches, config)
        if H is not None:
            places = warp_points(features0.keypoints[free0], H).astype(np.float32)
            pairs, scores = _assign(features0, features1, free0, free1, places, config)
    return Matches(
        indices=pairs,
        scores=scores,
        points0=features0.keypoints[pairs[:, 0]],
        points1=features1.keypoints[pairs[:, 1]],
        refined=np.zeros(len(pairs), np.bool_),
    )


def _explaining_homography(matches: Matches, config: GuidedConfig) -> Matrix | None:
    """Homography (3, 3) of image 0 to image 1 that most matches obey; None if there is none."""
    if len(matches) < config.min_matches:
        return None
    take_blas_buffer()
    H, inliers = cv2.findHomography(
        matches.points0, matches.points1, cv2.USAC_MAGSAC, config.radius
    )
    if H is None or inliers.mean() < config.min_explained or not np.isfinite(H).all():
        return None
    return optimize_homography(
        np.asarray(H, np.float64), matches.points0, matches.points1, config.radius
    )


def _reduced(features: Features, factor: float) -> Features:
    """Features with keypoints in pixels of the reduced image."""
    if factor == 1:
        return features
    return replace(features, keypoints=features.keypoints * np.float32(factor))


def _unmatched(count: int, matched: Index) -> Index:
    is_free = np.ones(count, np.bool_)
    is_free[matched] = False
    return np.flatnonzero(is_free)


def _assign(
    features0: Features,
    features1: Features,
    free0: Index,
    free1: Index,
    places: Float,
    config: GuidedConfig,
) -> tuple[Index, Float]:
    """Mutually best pairs of unmatched keypoints (G, 2), and their confidences (G,)."""
    x, y = features1.keypoints[free1].T
    squares = np.square(places[:, :1] - x) + np.square(places[:, 1:] - y)
    squares /= np.float32(config.radius**2)
    similarity = features0.descriptors[free0] @ features1.descriptors[free1].T
    worth = np.where(squares < 1, similarity - config.penalty * squares, -np.inf)
    if not worth.size:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    best = worth.argmax(1)
    rows = np.arange(len(worth))
    mutual = worth[rows, best] == worth.max(0)[best]
    mutual &= np.isfinite(worth[rows, best])
    mutual &= similarity[rows, best] > config.min_similarity
    pairs = np.stack((free0[mutual], free1[best[mutual]]), 1)
    scores = config.score * np.minimum(similarity[rows, best][mutual], 1)
    return pairs, np.asarray(scores, np.float32)


def _joined(first: Matches, second: Matches) -> Matches:
    """The matches of both, in this order."""
    arrays: dict[str, Any] = {
        name: np.concatenate((getattr(first, name), getattr(second, name))) for name in _ARRAYS
    }
    return Matches(**arrays)

"""Union of two sets of matches of one image pair, and its verification by epipolar geometry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.quick_estimates import quick_fundamental
from featherglue.matching.working_size import reduced_points
from featherglue.types import Features, Matches, MatchResult

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
_ARRAYS = ("indices", "scores", "points0", "points1", "refined")


def unite(
    first: MatchResult,
    second: MatchResult,
    distance: float,
    limit: int,
    factors: tuple[float, float] = (1.0, 1.0),
) -> MatchResult:
    """Add the matches of a second result that the first lacks.

    Args:
        first: its matches are kept.
        second: matches of the same images, possibly with other keypoints.
        distance: px, a match of `second` is new if it is farther than this from all matches of
            `first` in both images.
        limit: maximum number of keypoints of an image. Unmatched keypoints of `first` make room,
            weakest first; if that is not enough, matches of `second` are left out, weakest first.
        factors: by which both images were reduced; `distance` is in pixels of reduced images.

    Returns:
        The first result with its features and matches extended.
    """
    old, new = first.matches, second.matches
    if not len(new):
        return first
    chosen = np.ones(len(new), np.bool_)
    both = zip(_reduced(new, factors), _reduced(old, factors), strict=True)
    for points, others in both:
        if len(others):
            squares = np.square(points[:, None] - others).sum(2).min(1)
            chosen &= squares > distance**2
    indices = np.flatnonzero(chosen)
    room = max(0, limit - len(old))
    if len(indices) > room:
        indices = np.sort(indices[np.argsort(-new.scores[indices], kind="stable")[:room]])
    if not len(indices):
        return first
    features0, rows0 = _extended(
        first.features0, old.indices[:, 0], second.features0, new.indices[indices, 0], limit
    )
    features1, rows1 = _extended(
        first.features1, old.indices[:, 1], second.features1, new.indices[indices, 1], limit
    )
    matches = Matches(
        indices=np.stack((rows0, rows1), 1),
        scores=np.concatenate((old.scores, new.scores[indices])),
        points0=np.concatenate((old.points0, new.points0[indices])),
        points1=np.concatenate((old.points1, new.points1[indices])),
        refined=np.concatenate((old.refined, new.refined[indices])),
    )
    return replace(first, features0=features0, features1=features1, matches=matches)


def limit_keypoints(result: MatchResult, limit: int) -> MatchResult:
    """A result of at most `limit` keypoints in each image.

    Unmatched keypoints are left out first, then matches, the weakest ones first.
    """
    kept = np.ones(len(result.matches), np.bool_)
    kept[np.argsort(-result.matches.scores, kind="stable")[limit:]] = False
    matches = select(result.matches, kept)
    none = np.zeros(0, np.int64)
    features, columns = [], []
    for own, rows in zip((result.features0, result.features1), matches.indices.T, strict=True):
        limited, places = _extended(own, rows, own, none, limit)
        features.append(limited)
        columns.append(places)
    matches = replace(matches, indices=np.stack(columns, 1))
    return replace(result, features0=features[0], features1=features[1], matches=matches)


def _extended(
    features: Features, matched: Index, others: Features, added: Index, limit: int
) -> tuple[Features, Index]:
    """Features with some of others appended, at most `limit`.

    Returns:
        The features, and the indices among them of the matched ones, followed by the added ones.
    """
    is_matched = np.zeros(len(features), np.bool_)
    is_matched[matched] = True
    unmatched = np.flatnonzero(~is_matched)
    num_unmatched = max(0, min(len(unmatched), limit - len(matched) - len(added)))
    strongest = np.argsort(-features.scores[unmatched], kind="stable")[:num_unmatched]
    kept = np.sort(np.concatenate((matched, unmatched[strongest])))
    places = np.zeros(len(features), np.int64)
    places[kept] = np.arange(len(kept))
    names = ("keypoints", "scores", "descriptors")
    arrays: dict[str, Any] = {
        name: np.concatenate((getattr(features, name)[kept], getattr(others, name)[added]))
        for name in names
    }
    rows = np.concatenate((places[matched], len(kept) + np.arange(len(added))))
    return replace(features, **arrays), rows


def nearest_keypoints(
    matches: Matches, features0: Features, features1: Features, distance: float
) -> tuple[Index, Float]:
    """Assign matches to given keypoints.

    A keypoint has at most one match: the one with the highest confidence.

    Args:
        matches: of any keypoints of the same images.
        features0, features1: the keypoints.
        distance: px, maximum distance of a match from its keypoint, in each image.

    Returns:
        Indices (M, 2) of the keypoints of each remaining match, and its confidence (M,), in
        descending order of the confidence.
    """
    order = np.argsort(-matches.scores, kind="stable")
    if not (len(order) and len(features0) and len(features1)):
        return np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    near = np.ones(len(order), np.bool_)
    columns = []
    for points, features in ((matches.points0, features0), (matches.points1, features1)):
        squares = np.square(points[order][:, None] - features.keypoints).sum(2)
        columns.append(squares.argmin(1))
        near &= squares.min(1) <= distance**2
    indices, scores = np.stack(columns, 1)[near], matches.scores[order][near]
    for column in (0, 1):
        first = np.sort(np.unique(indices[:, column], return_index=True)[1])
        indices, scores = indices[first], scores[first]
    return indices, scores


def verify(
    result: MatchResult,
    tolerance: float,
    min_inliers: int,
    factors: tuple[float, float] = (1.0, 1.0),
) -> MatchResult:
    """Drop the matches that contradict the epipolar geometry, estimated by MAGSAC++.

    Args:
        result: its matches are verified.
        tolerance: px, maximum distance of a match from its epipolar line.
        min_inliers: with fewer inliers all matches are kept; also if the estimation fails.
        factors: by which both images were reduced; `tolerance` is in pixels of reduced images.
    """
    matches = result.matches
    if len(matches) < min_inliers:
        return result
    found = quick_fundamental(*_reduced(matches, factors), tolerance)
    if found is None or found[1].sum() < min_inliers or found[1].all():
        return result
    return replace(result, matches=select(matches, found[1]))


def _reduced(matches: Matches, factors: tuple[float, float]) -> tuple[Float, Float]:
    return reduced_points(matches.points0, matches.points1, factors)


def select(matches: Matches, kept: Mask) -> Matches:
    """The matches for which `kept` (M,) is true."""
    arrays: dict[str, Any] = {name: getattr(matches, name)[kept] for name in _ARRAYS}
    return Matches(**arrays)


def joined(first: Matches, second: Matches) -> Matches:
    """The matches of both, in this order."""
    arrays: dict[str, Any] = {
        name: np.concatenate((getattr(first, name), getattr(second, name))) for name in _ARRAYS
    }
    return Matches(**arrays)

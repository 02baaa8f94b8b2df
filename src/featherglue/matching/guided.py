"""Matching of a pair that one homography explains.

The homography of the matches is more accurate than each of them. It predicts where a keypoint lies
in image 1, and how its surroundings look there. Matches are therefore aligned again from there;
those that stay away from the homography are dropped. Guided matching then assigns the other
keypoints (Hartley and Zisserman 2004, algorithm 4.6): an unmatched keypoint belongs to an unmatched
one near its predicted place if their descriptors are mutually the most similar ones there.

Shape legend: M matches, F unmatched keypoints, G new matches.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.local_optimization import optimize_homography
from featherglue.geometry.projection import warp_points
from featherglue.io.gray import Gray
from featherglue.matching.consensus import LocalMaps
from featherglue.matching.fusion import select
from featherglue.matching.plane_fit import PlaneConfig, deviations, fit_plane, median_noise
from featherglue.matching.scaled_refinement import refine_at_scales
from featherglue.matching.scratch import Scratch
from featherglue.matching.subpixel import RefineConfig
from featherglue.matching.working_size import working_factor
from featherglue.options import ProcessingConfig
from featherglue.types import Matches, MatchResult

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Matrix = NDArray[np.float64]
Factors = tuple[float, float]
_ARRAYS = ("indices", "scores", "points0", "points1", "refined")
# The start is accurate and the appearance may have changed: a large window, a low correlation.
_ALIGNMENT = RefineConfig(window=15, iterations=6, pull=1.0, min_correlation=0.4)
_MAX_SCALE = 3.0  # ratio of scales up to which windows are aligned: larger ones need a warped image


@dataclass(frozen=True, kw_only=True)
class GuidedConfig:
    """Settings of guided matching. The defaults were chosen on training photographs.

    Attributes:
        complete_ratio: a pair is incomplete if the ratio between the total confidence of its
            matches and the smaller number of keypoints is below this.
        plane: when one homography explains a pair.
        max_deviation: maximum distance of a match from the homography, relative to the noise.
        min_deviation: px, a match nearer to the homography is never dropped.
        radius: px in image 1, maximum distance of a keypoint from the predicted place.
        min_similarity: minimum cosine of the descriptors.
        penalty: reduction of the similarity at a distance of `radius`; it grows with the square.
        score: confidence of a new match with the similarity 1.
    """

    complete_ratio: float = 0.5
    plane: PlaneConfig = field(default_factory=PlaneConfig)
    max_deviation: float = 3.0
    min_deviation: float = 0.3
    radius: float = 5.0
    min_similarity: float = 0.0
    penalty: float = 0.5
    score: float = 0.2


def relative_strength(result: MatchResult) -> float:
    """Ratio between the total confidence of matches and the smaller number of keypoints."""
    count = min(len(result.features0), len(result.features1))
    return float(result.matches.scores.sum()) / max(count, 1)


def is_incomplete(result: MatchResult, config: GuidedConfig | None = None) -> bool:
    """Whether the matches of a pair are so few or uncertain that guided matching pays."""
    return relative_strength(result) < (config or GuidedConfig()).complete_ratio


def complete(result: MatchResult, processing: ProcessingConfig, scratch: Scratch) -> MatchResult:
    """Refine the matches of a pair again; filter and complete them where it shows a plane.

    See `match_plane` for the arguments.
    """
    found = match_plane(result, processing, scratch)
    return refine_again(result, processing, scratch) if found is None else found


def match_plane(
    result: MatchResult,
    processing: ProcessingConfig,
    scratch: Scratch,
    config: GuidedConfig | None = None,
) -> MatchResult | None:
    """Refine, filter and complete the matches of a pair by the homography that explains them.

    Args:
        result: matches and features; without their images, points stay as they are.
        processing: settings of the session that matched.
        scratch: buffers.
        config: settings; None uses the defaults.

    Returns:
        The new result; None if no homography explains the pair.
    """
    config = config or GuidedConfig()
    pair = _Pair.of(result, processing, scratch)
    matches = result.matches
    plane = fit_plane(*pair.reduced(matches), config.plane)
    if plane is None:
        return None
    others = select(matches, plane.depth)
    matches = pair.align(select(matches, ~plane.depth), plane.H)
    tolerance = config.plane.tolerance
    H = optimize_homography(plane.H, *pair.reduced(matches), tolerance)
    noise = median_noise(deviations(H, *pair.reduced(matches)), tolerance)
    limit = max(config.min_deviation, config.max_deviation * noise)
    matches = _joined(_near(pair, matches, H, limit), others)
    new = pair.align(_guided(pair, matches, H, config), H)
    return replace(result, matches=_joined(matches, _near(pair, new, H, limit)))


def refine_again(
    result: MatchResult, processing: ProcessingConfig, scratch: Scratch
) -> MatchResult:
    """Refine matches once more: local maps of refined points are more accurate.

    See `match_plane` for the arguments.
    """
    pair = _Pair.of(result, processing, scratch)
    if pair.images is None:
        return result
    matches = result.matches
    points1, aligned = refine_at_scales(
        *pair.images, matches.points0, matches.points1, pair.factors, scratch, None
    )
    return replace(
        result, matches=replace(matches, points1=points1, refined=matches.refined | aligned)
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """Features of a pair, and how to align their points.

    Attributes:
        result: the features.
        factors: by which the images were reduced for extraction.
        images: the images; None if points are not refined.
        scratch: buffers.
    """

    result: MatchResult
    factors: Factors
    images: tuple[Gray, Gray] | None
    scratch: Scratch

    @staticmethod
    def of(result: MatchResult, processing: ProcessingConfig, scratch: Scratch) -> _Pair:
        features = result.features0, result.features1
        factors = tuple(working_factor(one.image_size, processing) for one in features)
        image0, image1 = (one.image for one in features)
        given = processing.refine and image0 is not None and image1 is not None
        images: Any = (image0, image1) if given else None
        return _Pair(result, factors, images, scratch)  # type: ignore[arg-type]

    def reduced(self, matches: Matches) -> tuple[Float, Float]:
        """The points of matches in pixels of the reduced images."""
        return tuple(
            points if factor == 1 else points * np.float32(factor)
            for points, factor in zip((matches.points0, matches.points1), self.factors, strict=True)
        )  # type: ignore[return-value]

    def keypoints(self) -> tuple[Float, Float]:
        """The keypoints in pixels of the reduced images."""
        features = self.result.features0, self.result.features1
        return tuple(
            one.keypoints * np.float32(factor)
            for one, factor in zip(features, self.factors, strict=True)
        )  # type: ignore[return-value]

    def align(self, matches: Matches, H: Matrix) -> Matches:
        """Align image 1 to image 0 at matches, from where H predicts their points."""
        if self.images is None or not len(matches):
            return matches
        keypoints = self.result.features1.keypoints[matches.indices[:, 1]]
        places, linear = _local_maps(H, self.reduced(matches)[0])
        offsets = (places - keypoints * np.float32(self.factors[1])).T
        maps = LocalMaps(linear, np.ascontiguousarray(offsets), np.zeros(len(matches), np.float32))
        moved, aligned = refine_at_scales(
            *self.images, matches.points0, keypoints, self.factors, self.scratch, maps, _ALIGNMENT
        )
        aligned &= np.abs(np.log(np.abs(np.linalg.det(linear)))) < 2 * np.log(_MAX_SCALE)
        points1 = np.where(aligned[:, None], moved, matches.points1)
        return replace(matches, points1=points1, refined=matches.refined | aligned)


def _local_maps(H: Matrix, points: Float) -> tuple[Float, Float]:
    """Where H maps points (M, 2), and the derivatives (M, 2, 2) there."""
    homogeneous = points.astype(np.float64) @ H[:, :2].T + H[:, 2]
    w = homogeneous[:, 2:]
    places = homogeneous[:, :2] / w
    linear = (H[:2, :2] - places[:, :, None] * H[2, :2]) / w[:, :, None]
    return np.asarray(places, np.float32), np.ascontiguousarray(linear, np.float32)


def _near(pair: _Pair, matches: Matches, H: Matrix, limit: float) -> Matches:
    """The matches that deviate from a homography by less than `limit` px."""
    return select(matches, deviations(H, *pair.reduced(matches)) < limit)


def _guided(pair: _Pair, matches: Matches, H: Matrix, config: GuidedConfig) -> Matches:
    """G matches of unmatched keypoints near the places that H predicts, not aligned."""
    features0, features1 = pair.result.features0, pair.result.features1
    free0 = _unmatched(len(features0), matches.indices[:, 0])
    free1 = _unmatched(len(features1), matches.indices[:, 1])
    pairs, scores = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    if len(free0) and len(free1):
        keypoints0, keypoints1 = pair.keypoints()
        places = warp_points(keypoints0[free0], H)
        similarity = np.matmul(features0.descriptors[free0], features1.descriptors[free1].T)
        rows, columns = _assign(places, keypoints1[free1], similarity, config)
        pairs = np.stack((free0[rows], free1[columns]), 1)
        scores = config.score * np.clip(similarity[rows, columns], 0, 1)
    return Matches(
        indices=pairs,
        scores=np.asarray(scores, np.float32),
        points0=features0.keypoints[pairs[:, 0]],
        points1=features1.keypoints[pairs[:, 1]],
        refined=np.zeros(len(pairs), np.bool_),
    )


def _unmatched(count: int, matched: Index) -> Index:
    is_free = np.ones(count, np.bool_)
    is_free[matched] = False
    return np.flatnonzero(is_free)


def _assign(
    places: NDArray[Any], keypoints: Float, similarity: Float, config: GuidedConfig
) -> tuple[Index, Index]:
    """Mutually best pairs.

    Args:
        places: (F0, 2) predicted places in image 1.
        keypoints: (F1, 2) in image 1.
        similarity: (F0, F1), cosines of the descriptors.
        config: settings.

    Returns:
        Their rows (G,) and columns (G,).
    """
    x, y = keypoints.T
    squares = np.square(places[:, :1] - x) + np.square(places[:, 1:] - y)
    squares /= config.radius**2
    worth = np.where(squares < 1, similarity - config.penalty * squares, -np.inf)
    best, rows = worth.argmax(1), np.arange(len(worth))
    mutual = worth[rows, best] == worth.max(0)[best]
    mutual &= np.isfinite(worth[rows, best])
    mutual &= similarity[rows, best] > config.min_similarity
    return rows[mutual], best[mutual]


def _joined(first: Matches, second: Matches) -> Matches:
    """The matches of both, in this order."""
    arrays: dict[str, Any] = {
        name: np.concatenate((getattr(first, name), getattr(second, name))) for name in _ARRAYS
    }
    return Matches(**arrays)

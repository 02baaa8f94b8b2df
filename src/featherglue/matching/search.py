"""Search over rotation and scale, for pairs on which a plain match fails.

The networks tolerate rotations up to about 45° and ratios of scale up to about 1.5. For larger
differences this module estimates the rotation and the ratio on small versions of both images, and
matches the images at that rotation and ratio. It then warps the finer image onto the coarser one by
the homography of these matches, and matches again (as in MODS: Mishkin, Matas, Perdoch 2015). The
result unites the matches of the warped and of the plain images, as far as they agree with one
epipolar geometry.

A hypothesis is a scale for each image and a number of quarter turns of image 1. Hypotheses are
ranked by mutual nearest neighbors until one is clear: the plain one, then other ratios of scales,
then rotations. The matcher runs on the best few.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.blas_buffer import take_blas_buffer
from featherglue.io.gray import Gray
from featherglue.matching.fusion import unite, verify
from featherglue.matching.warped_views import View, local_map, local_scale, shrink
from featherglue.types import Features, Matches, MatchResult, SearchInfo

Float = NDArray[np.float32]
Matrix = NDArray[np.floating]
_MIN_COSINE = 0.5  # nearest neighbors below it are not evidence of a match
Known = Mapping[int, Features]  # by the id of their image


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Settings of the search. The defaults were chosen on training photographs.

    Attributes:
        weak_ratio: a plain match is weak if the ratio between the total confidence of its matches
            and the smaller number of keypoints is below this. Hypotheses are tried only then.
        good_ratio: ratio above which a plain match needs no search.
        max_plain_rotation: degrees, maximum rotation at which a plain match needs no search.
        side: longest side in pixels of the small versions.
        scales: additional scales of the small versions.
        num_finalists: number of hypotheses that the matcher tries.
        clear_similarity: similarity of a hypothesis above which no others are ranked.
        min_strength: total confidence of matches below which a hypothesis is dropped.
        enough_strength: total confidence of a hypothesis above which no other one is tried.
        max_warps: maximum number of warps, each followed by a match.
        tolerance: px, inlier threshold of the homography by which an image is warped.
        min_inliers: minimum number of inliers of that homography.
        same_scale: ratio of scales below which no image is shrunk and no search is needed.
        margin: px, width of the border of a warped image without keypoints.
        mild_ratio: ratio of the axes of local affine maps below which a homography needs no warp.
        min_gain: minimum ratio by which a warp must increase the total confidence for another one.
        min_distance: px, minimum distance of a match of the plain images from those of the warped
            ones, for it to be added.
        max_epipolar: px, maximum distance of a match from its epipolar line.
        min_verified: minimum number of matches that determine the epipolar geometry.
        max_cached: maximum number of images whose small features are kept.
    """

    weak_ratio: float = 0.15
    good_ratio: float = 0.75
    max_plain_rotation: float = 15.0
    side: int = 240
    scales: tuple[float, ...] = (1.0, 0.5, 0.25)
    num_finalists: int = 2
    clear_similarity: float = 1.2
    min_strength: float = 4.5
    enough_strength: float = 15.0
    max_warps: int = 2
    tolerance: float = 4.0
    min_inliers: int = 8
    same_scale: float = 1.15
    margin: float = 6.0
    mild_ratio: float = 1.15
    min_gain: float = 1.05
    min_distance: float = 3.0
    max_epipolar: float = 4.0
    min_verified: int = 12
    max_cached: int = 8


class Pipeline(Protocol):
    """The part of a session that the search uses."""

    @property
    def max_keypoints(self) -> int:
        """Maximum number of keypoints of an image; negative if there is none."""
        ...

    def extract_small(self, image: Gray) -> Features:
        """A few strong features of a small image."""
        ...

    def extract(self, image: Gray) -> Features:
        """Features of an image at its own size."""
        ...

    def working_factor(self, image: Gray) -> float:
        """Factor by which the session shrinks an image before extraction."""
        ...

    def match_plain(self, features0: Features, features1: Features) -> MatchResult:
        """Match without a search."""
        ...

    def match_small(self, features0: Features, features1: Features) -> MatchResult:
        """Match features of small images."""
        ...


@dataclass(frozen=True)
class Hypothesis:
    """Scales of both small versions, and number of quarter turns of image 1."""

    scale0: float
    scale1: float
    turns: int


def _similarities(features0: Features, turned: Sequence[Features]) -> list[float]:
    """Similarity of image 0 and each rotation of image 1, from mutual nearest neighbors."""
    found = []
    stacked = np.concatenate([features1.descriptors for features1 in turned])
    products = features0.descriptors @ stacked.T
    ends = np.cumsum([len(features1) for features1 in turned])
    for features1, end in zip(turned, ends, strict=True):
        part = products[:, end - len(features1) : end]
        if not part.size:
            found.append(0.0)
            continue
        nearest = part.argmax(1)
        rows = np.arange(len(part))
        mutual = part.argmax(0)[nearest] == rows
        cosines = part[rows, nearest][mutual]
        found.append(float(np.square(np.maximum(cosines - _MIN_COSINE, 0)).sum()))
    return found


def strength(result: MatchResult) -> float:
    """Total confidence of the matches. Results are compared by it."""
    return float(result.matches.scores.sum())


class Search:
    """Finds matches of pairs that differ in rotation or scale. It is thread-safe."""

    def __init__(self, pipeline: Pipeline, config: SearchConfig | None = None) -> None:
        self.pipeline, self.config = pipeline, config or SearchConfig()
        self._lock = threading.Lock()
        self._small: OrderedDict[int, tuple[Gray, dict[tuple[float, int], Features]]]
        self._small = OrderedDict()

    def is_needed(self, result: MatchResult) -> bool:
        """Whether a plain match is weak, or its images differ in rotation or scale."""
        return self._is_weak(result) or self._is_turned(result)

    def _relative_strength(self, result: MatchResult) -> float:
        """Ratio between the total confidence and the smaller number of keypoints."""
        count = min(len(result.features0), len(result.features1))
        return strength(result) / max(count, 1)

    def _is_weak(self, result: MatchResult) -> bool:
        return self._relative_strength(result) < self.config.weak_ratio

    def _is_turned(self, result: MatchResult) -> bool:
        if self._relative_strength(result) > self.config.good_ratio:
            return False
        degrees, scale = relative_view(result.matches)
        max_log_scale = np.log(self.config.same_scale)
        return abs(degrees) > self.config.max_plain_rotation or abs(np.log(scale)) > max_log_scale

    def improve(self, plain: MatchResult) -> MatchResult:
        """The best result of the search, or `plain` if no result is better.

        Both sets of features must contain their image.
        """
        image0, image1 = plain.features0.image, plain.features1.image
        if image0 is None or image1 is None or min(*image0.shape, *image1.shape) < 32:
            return plain
        known = {id(image0): plain.features0, id(image1): plain.features1}
        best = plain
        weak = self._is_weak(plain)
        for hypothesis, coarse in self._finalists(image0, image1) if weak else ():
            if strength(coarse) < self.config.min_strength:
                break
            found = self._match_hypothesis(image0, image1, hypothesis, coarse, known)
            if found is not None and strength(found) > strength(best):
                best = found
                break
        best = self._refine_by_warping(image0, image1, best, known)
        return plain if best is plain else self._fuse(plain, best)

    def _fuse(self, plain: MatchResult, found: MatchResult) -> MatchResult:
        """Add the plain matches, and drop those that contradict the epipolar geometry."""
        config, limit = self.config, self.pipeline.max_keypoints
        if limit < 0:
            limit = len(plain.features0) + len(plain.features1) + len(found.features0)
        united = unite(found, plain, config.min_distance, limit)
        return verify(united, config.max_epipolar, config.min_verified)

    def _refine_by_warping(
        self, image0: Gray, image1: Gray, best: MatchResult, known: Known
    ) -> MatchResult:
        for _ in range(self.config.max_warps):
            found = self._warp_and_match(image0, image1, best, known)
            if found is None or strength(found) <= strength(best):
                break
            converged = strength(found) < self.config.min_gain * strength(best)
            best = found
            if converged:
                break
        return best

    # --- hypotheses -------------------------------------------------------------------------

    def _finalists(self, image0: Gray, image1: Gray) -> Sequence[tuple[Hypothesis, MatchResult]]:
        """The hypotheses with the strongest matches on the small versions, best first."""
        scales = self.config.scales
        shrunk = [(1.0, s) for s in scales] + [(s, 1.0) for s in scales if s != 1.0]
        scores: dict[Hypothesis, float] = {}
        for sizes, all_turns in ((shrunk[:1], [0]), (shrunk[1:], [0]), (shrunk, [1, 2, 3])):
            for scale0, scale1 in sizes:
                features0 = self._small_features(image0, scale0, 0)
                turned = [self._small_features(image1, scale1, turns) for turns in all_turns]
                for turns, score in zip(all_turns, _similarities(features0, turned), strict=True):
                    scores[Hypothesis(scale0, scale1, turns)] = score
            if max(scores.values()) > self.config.clear_similarity:
                break
        tried: list[tuple[Hypothesis, MatchResult]] = []
        for hypothesis in sorted(scores, key=lambda h: -scores[h])[: self.config.num_finalists]:
            features0 = self._small_features(image0, hypothesis.scale0, 0)
            features1 = self._small_features(image1, hypothesis.scale1, hypothesis.turns)
            tried.append((hypothesis, self.pipeline.match_small(features0, features1)))
            if strength(tried[-1][1]) > self.config.enough_strength:
                break
        return sorted(tried, key=lambda pair: -strength(pair[1]))

    def _small_features(self, image: Gray, scale: float, turns: int) -> Features:
        key = (scale, turns)
        with self._lock:
            kept = self._small.setdefault(id(image), (image, {}))[1]
            self._small.move_to_end(id(image))
            while len(self._small) > self.config.max_cached:
                self._small.popitem(last=False)
        if key not in kept:
            small = shrink(image, scale * min(1.0, self.config.side / max(image.shape)))
            turned = np.ascontiguousarray(np.rot90(small, turns))
            kept[key] = replace(self.pipeline.extract_small(turned), image=None)
        return kept[key]

    # --- matching under a hypothesis ---------------------------------------------------------

    def _match_hypothesis(
        self,
        image0: Gray,
        image1: Gray,
        hypothesis: Hypothesis,
        coarse: MatchResult,
        known: Known,
    ) -> MatchResult | None:
        """Match at the rotation of a hypothesis and the ratio of scales of its matches.

        Returns None if that is the plain match.
        """
        config = self.config
        factor0 = hypothesis.scale0 * min(1.0, config.side / max(image0.shape))
        factor1 = hypothesis.scale1 * min(1.0, config.side / max(image1.shape))
        # Pixels of image 1 per pixel of image 0.
        ratio = relative_view(coarse.matches)[1] * factor0 / factor1
        ratio = float(np.clip(ratio, 1 / 16, 16))
        work0, work1 = self.pipeline.working_factor(image0), self.pipeline.working_factor(image1)
        ratio *= work1 / work0  # working pixels of image 1 per working pixel of image 0
        if abs(np.log(ratio)) < np.log(config.same_scale):
            ratio = 1.0
            if hypothesis.turns == 0:
                return None
        view0 = View.resized(image0, work0 * min(1.0, ratio), 0)
        view1 = View.resized(image1, work1 * min(1.0, 1 / ratio), hypothesis.turns)
        return self._match_views(view0, view1, known, 0)

    def _match_views(self, view0: View, view1: View, known: Known, warps: int) -> MatchResult:
        features0, features1 = (self._view_features(view, known) for view in (view0, view1))
        result = self.pipeline.match_plain(features0, features1)
        back0, back1 = view0.back, view1.back
        mapped = replace(
            result.matches,
            points0=back0(result.matches.points0),
            points1=back1(result.matches.points1),
        )
        rotation, scale = relative_view(mapped)
        return MatchResult(
            features0=view0.in_original(features0),
            features1=view1.in_original(features1),
            matches=mapped,
            milliseconds=result.milliseconds,
            search=SearchInfo(rotation=rotation, scale=scale, warps=warps),
        )

    def _view_features(self, view: View, known: Known) -> Features:
        """Features of a view. An image that is not warped has those of the plain match."""
        if view.image is view.original and self.pipeline.working_factor(view.image) == 1:
            return known[id(view.image)]
        return view.keep_inside(self.pipeline.extract(view.image), self.config.margin)

    def _warp_and_match(
        self, image0: Gray, image1: Gray, found: MatchResult, known: Known
    ) -> MatchResult | None:
        """Warp the finer image onto the coarser by the homography of a result; match again."""
        matches = found.matches
        if len(matches) < max(4, self.config.min_inliers):
            return None
        take_blas_buffer()
        estimate, inliers = cv2.findHomography(
            matches.points0, matches.points1, cv2.USAC_MAGSAC, self.config.tolerance
        )
        if estimate is None or inliers.sum() < self.config.min_inliers:
            return None
        H, points = np.asarray(estimate, np.float64), matches.points0[inliers[:, 0] > 0]
        if not np.isfinite(H).all():
            return None
        if _is_mild(H, points, self.config.mild_ratio, self.config.max_plain_rotation):
            return None
        ratio = local_scale(H, points.mean(0, dtype=np.float64))
        if not 1 / 32 < ratio < 32:
            return None
        if ratio <= 1:  # image 0 is the finer one
            view1 = View.resized(image1, self.pipeline.working_factor(image1), 0)
            view0 = View.warped(image0, view1.from_original @ H, view1.image.shape)
        else:
            view0 = View.resized(image0, self.pipeline.working_factor(image0), 0)
            onto = view0.from_original @ np.linalg.inv(H)
            view1 = View.warped(image1, onto, view0.image.shape)
        warps = found.search.warps if found.search else 0
        return self._match_views(view0, view1, known, warps + 1)


def _is_mild(H: Matrix, points: Float, ratio: float, degrees: float) -> bool:
    """Whether the local affine maps of a homography are close to a translation.

    Args:
        H: (3, 3).
        points: (N, 2), px; the maps are compared in the box of most of them.
        ratio: maximum stretch or shrinkage of a mild map.
        degrees: maximum rotation of a mild map.
    """
    low, middle, high = np.quantile(points, (0.1, 0.5, 0.9), axis=0)
    for x, y in (middle, low, high, (low[0], high[1]), (high[0], low[1])):
        linear = local_map(H, (x, y))
        if not np.isfinite(linear).all():
            return False
        left, axes, right = np.linalg.svd(linear)
        turn = left @ right
        angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
        if max(axes[0], 1 / max(axes[1], 1e-9)) > ratio or abs(angle) > degrees:
            return False
    return True


def relative_view(matches: Matches) -> tuple[float, float]:
    """Rotation and scale of image 1 relative to image 0, from the offsets between matches.

    Returns:
        Clockwise rotation in degrees, in (−180, 180]; pixels of image 1 per pixel of image 0. They
        are 0 and 1 with fewer than two matches.
    """
    count = len(matches)
    if count < 2:
        return 0.0, 1.0
    first, second = (
        points.astype(np.float64).view(np.complex128)[:, 0]
        for points in (matches.points0, matches.points1)
    )
    third = max(1, count // 3)
    shifts = (1, third, third + 1)
    offsets0, offsets1 = (
        np.concatenate([points - np.roll(points, shift) for shift in shifts])
        for points in (first, second)
    )
    far = np.minimum(abs(offsets0), abs(offsets1)) > 1
    if not far.any():
        return 0.0, 1.0
    ratio = offsets1[far] / offsets0[far]
    mean = (ratio / abs(ratio)).sum()
    turn = mean / max(abs(mean), 1e-12)
    turn *= np.exp(1j * np.median(np.angle(ratio / turn)))  # wrong matches bias the mean
    return float(np.degrees(np.angle(turn))), float(np.exp(np.median(np.log(abs(ratio)))))

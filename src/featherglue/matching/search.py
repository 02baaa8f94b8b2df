"""Search over rotation and scale, for pairs on which a plain match fails.

The networks tolerate rotations up to about 45° and ratios of scale up to about 1.5. For larger
differences this module estimates the rotation and the ratio on small versions of both images
(`hypotheses`), and matches the images at that rotation and ratio. It then warps the finer image
onto the coarser one by the homography of these matches, and matches again (as in MODS: Mishkin,
Matas, Perdoch 2015). Scenes with several planes get such a warp for each of the next planes as
well. The result unites the matches of the warped and of the plain images, as far as they agree with
one epipolar geometry. The last step is guided matching (`guided`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.quick_estimates import quick_homography
from featherglue.io.gray import Gray
from featherglue.matching.fusion import limit_keypoints, select, unite, verify
from featherglue.matching.guided import relative_strength, strength
from featherglue.matching.hypotheses import Hypothesis, HypothesisRanking
from featherglue.matching.keypoint_mask import strongest, with_mask
from featherglue.matching.search_config import SearchConfig
from featherglue.matching.search_pipeline import SessionPipeline
from featherglue.matching.warped_views import View, is_mild, local_scale
from featherglue.matching.working_size import reduced_points
from featherglue.types import Features, Matches, MatchResult, SearchInfo

Float = NDArray[np.float32]
Matrix = NDArray[np.floating]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Extraction:
    """What is extracted of the images of a pair, and how their views are extracted.

    Attributes:
        features: features of each image as it is, by the id of the image.
        masks: mask of each image, by the id of the image; None for none.
        extract: extracts the views of images without a mask.
        factors: by which the images are reduced for extraction. Limits are px of reduced images.
    """

    features: Mapping[int, Features]
    masks: Mapping[int, Gray | None]
    extract: Callable[[Gray], Features]
    factors: tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Found:
    """The match of two views.

    Attributes:
        view0, view1: the views.
        result: features and matches in pixels of the views.
        matches: the matches in pixels of the originals.
        warps: number of warps that led to the views.
    """

    view0: View
    view1: View
    result: MatchResult
    matches: Matches
    warps: int

    @staticmethod
    def make(view0: View, view1: View, result: MatchResult, warps: int) -> _Found:
        points0, points1 = result.matches.points0, result.matches.points1
        matches = replace(result.matches, points0=view0.back(points0), points1=view1.back(points1))
        return _Found(view0, view1, result, matches, warps)

    def in_originals(self) -> MatchResult:
        """The result in pixels of the originals."""
        rotation, scale = relative_view(self.matches)
        return MatchResult(
            features0=self.view0.in_original(self.result.features0),
            features1=self.view1.in_original(self.result.features1),
            matches=self.matches,
            milliseconds=self.result.milliseconds,
            search=SearchInfo(rotation=rotation, scale=scale, warps=self.warps),
        )


class Search:
    """Finds matches of pairs that differ in rotation or scale. It is thread-safe."""

    def __init__(self, pipeline: SessionPipeline, config: SearchConfig | None = None) -> None:
        self.pipeline, self.config = pipeline, config or SearchConfig()
        self.hypotheses = HypothesisRanking(pipeline, self.config)

    def is_needed(self, result: MatchResult) -> bool:
        """Whether to search or to complete a plain match; see `improve`. Not without keypoints."""
        if not len(result.features0) or not len(result.features1):
            return False
        ratio = relative_strength(result)
        is_weak = ratio < self.config.weak_ratio
        return is_weak or self.pipeline.needs_completion(result) or self._is_turned(result, ratio)

    def _is_turned(self, result: MatchResult, ratio: float) -> bool:
        if ratio > self.config.good_ratio:
            return False
        degrees, scale = relative_view(result.matches)
        max_log_scale = np.log(self.config.same_scale)
        return abs(degrees) > self.config.max_plain_rotation or abs(np.log(scale)) > max_log_scale

    def improve(self, plain: MatchResult, always: bool = False) -> MatchResult:
        """The best result of the search, or `plain` if no result is better.

        Args:
            plain: both sets of features must contain their image.
            always: warp the images also if the match is not weak and shows no other view.
        """
        image0, image1 = plain.features0.image, plain.features1.image
        if image0 is None or image1 is None:
            return plain
        if min(*image0.shape, *image1.shape) < 32:  # too small for smaller versions
            return self.pipeline.finish(plain)
        if image1 is image0:  # each has a mask of its own
            image1 = image0.copy()
            plain = replace(plain, features1=replace(plain.features1, image=image1))
        result = self.pipeline.finish(self._searched(image0, image1, plain, always))
        given = plain.features0, plain.features1
        limit = max(self.pipeline.max_keypoints, *map(len, given))
        if self.pipeline.max_keypoints >= 0 and limit < max(
            len(result.features0), len(result.features1)
        ):
            result = limit_keypoints(result, limit)
        return replace(
            result,
            features0=with_mask(result.features0, given[0].mask),
            features1=with_mask(result.features1, given[1].mask),
        )

    def _searched(
        self, image0: Gray, image1: Gray, plain: MatchResult, always: bool
    ) -> MatchResult:
        """The result before the last step."""
        features = {id(image0): plain.features0, id(image1): plain.features1}
        masks = {number: one.mask for number, one in features.items()}
        factors = (self.pipeline.working_factor(image0), self.pipeline.working_factor(image1))
        known = _Extraction(features, masks, self.pipeline.extract, factors)
        ratio = relative_strength(plain)
        weak = ratio < self.config.weak_ratio
        if weak and self._may_be_dense(plain):
            plain, known = self._match_dense(image0, image1, plain, known)
        found: _Found | None = None
        unclear = weak and not self._is_clear(plain)
        finalists = self.hypotheses.finalists(image0, image1, *masks.values()) if unclear else ()
        for hypothesis, coarse in finalists:
            if strength(coarse.matches) < self.config.min_strength:
                break
            found = self._match_hypothesis(image0, image1, hypothesis, coarse, known)
            if found is not None and strength(found.matches) > strength(plain.matches):
                break
            found = None
        if always or weak or self._is_turned(plain, ratio):
            found = self._refine_by_warping(image0, image1, plain.matches, found, known)
        result = plain if found is None else self._fuse(plain, found, known)
        if always or weak:
            return self._add_planes(plain, result, known)
        return result

    def _is_clear(self, result: MatchResult) -> bool:
        """Whether the matches are enough to tell that the images are neither turned nor scaled."""
        enough = strength(result.matches) > self.config.enough_strength
        return enough and not self._is_turned(result, 0.0)

    def _may_be_dense(self, plain: MatchResult) -> bool:
        """Whether images may get more keypoints: without masks, and with the session's number."""
        given, limit = (plain.features0, plain.features1), self.pipeline.max_keypoints
        few = limit < 0 or max(map(len, given)) <= limit
        return self.pipeline.is_dense and few and all(one.mask is None for one in given)

    def _match_dense(
        self, image0: Gray, image1: Gray, plain: MatchResult, known: _Extraction
    ) -> tuple[MatchResult, _Extraction]:
        """Match the images with more keypoints.

        Returns:
            The stronger one of this match and the plain one, and the features of this match.
        """
        extract = self.pipeline.extract_dense
        views = [
            View.resized(image, self.pipeline.shrink_factor(image), 0) for image in (image0, image1)
        ]
        features = [extract(view.image, view.original) for view in views]
        match = _Found.make(views[0], views[1], self.pipeline.match(*features), 0)
        if strength(match.matches) > max(strength(plain.matches), self.config.min_strength):
            plain = match.in_originals()
        dense = {id(view.original): found for view, found in zip(views, features, strict=True)}
        return plain, replace(known, features=dense, extract=extract)

    def _fuse(self, plain: MatchResult, found: _Found, known: _Extraction) -> MatchResult:
        """Add the plain matches, and drop those that contradict the epipolar geometry."""
        config = self.config
        completed = self.pipeline.complete(found.result)
        if completed is not found.result:
            found = _Found.make(found.view0, found.view1, completed, found.warps)
        result = found.in_originals()
        limit = self._max_keypoints(plain, result)
        united = unite(result, plain, config.min_distance, limit, known.factors)
        return verify(united, config.max_epipolar, config.min_verified, known.factors)

    def _max_keypoints(self, plain: MatchResult, result: MatchResult) -> int:
        """Maximum number of keypoints of an image after the union of results."""
        if self.pipeline.max_keypoints >= 0:
            return self.pipeline.max_dense
        return len(plain.features0) + len(plain.features1) + len(result.features0)

    def _add_planes(
        self, plain: MatchResult, result: MatchResult, known: _Extraction
    ) -> MatchResult:
        """Warp by the homography of each plane that the matches show, and add its matches."""
        image0, image1 = plain.features0.image, plain.features1.image
        assert image0 is not None and image1 is not None
        config, united, rest = self.config, result, result.matches
        limit = self._max_keypoints(plain, result)
        for _ in range(config.max_planes):
            fit = self._fit_homography(rest, known)
            if fit is None:
                break
            H, inliers = fit
            plane = self._match_warped(image0, image1, H, rest.points0[inliers], known, 1)
            if plane is not None:
                added = plane.in_originals()
                united = unite(united, added, config.min_distance, limit, known.factors)
            rest = select(rest, ~inliers)
        if len(united.matches) == len(result.matches):
            return result
        verified = verify(united, config.max_epipolar, config.min_verified, known.factors)
        if verified.search is not None:
            return verified
        rotation, scale = relative_view(verified.matches)
        return replace(verified, search=SearchInfo(rotation=rotation, scale=scale, warps=1))

    def _refine_by_warping(
        self, image0: Gray, image1: Gray, plain: Matches, best: _Found | None, known: _Extraction
    ) -> _Found | None:
        matches = plain if best is None else best.matches
        for warps in range(1, self.config.max_warps + 1):
            found = self._warp_and_match(image0, image1, matches, known, warps)
            if found is None or strength(found.matches) <= strength(matches):
                break
            converged = strength(found.matches) < self.config.min_gain * strength(matches)
            best, matches = found, found.matches
            if converged:
                break
        return best

    # --- matching under a hypothesis ---------------------------------------------------------

    def _match_hypothesis(
        self,
        image0: Gray,
        image1: Gray,
        hypothesis: Hypothesis,
        coarse: MatchResult,
        known: _Extraction,
    ) -> _Found | None:
        """Match at the rotation of a hypothesis and the ratio of scales of its matches.

        Returns None if that is the plain match.
        """
        config = self.config
        factor0 = hypothesis.scale0 * min(1.0, config.side / max(image0.shape))
        factor1 = hypothesis.scale1 * min(1.0, config.side / max(image1.shape))
        # Pixels of image 1 per pixel of image 0.
        ratio = relative_view(coarse.matches)[1] * factor0 / factor1
        ratio = float(np.clip(ratio, 1 / 16, 16))
        work0, work1 = self.pipeline.shrink_factor(image0), self.pipeline.shrink_factor(image1)
        ratio *= work1 / work0  # working pixels of image 1 per working pixel of image 0
        if abs(np.log(ratio)) < np.log(config.same_scale):
            ratio = 1.0
            if hypothesis.turns == 0:
                return None
        view0 = View.resized(image0, work0 * min(1.0, ratio), 0)
        view1 = View.resized(image1, work1 * min(1.0, 1 / ratio), hypothesis.turns)
        return self._match_views(view0, view1, known, 0)

    def _match_views(self, view0: View, view1: View, known: _Extraction, warps: int) -> _Found:
        features0, features1 = (self._view_features(view, known) for view in (view0, view1))
        return _Found.make(view0, view1, self.pipeline.match(features0, features1), warps)

    def _view_features(self, view: View, known: _Extraction) -> Features:
        """Features of a view. Those of an image that is not warped are known."""
        if view.image is view.original and self.pipeline.shrink_factor(view.image) == 1:
            return known.features[id(view.image)]
        mask = known.masks[id(view.original)]
        if mask is None:
            return view.extract(known.extract, self.config.margin)
        found = view.extract(self.pipeline.extract_all, self.config.margin, mask)
        return strongest(found, self.pipeline.max_keypoints)

    def _warp_and_match(
        self, image0: Gray, image1: Gray, matches: Matches, known: _Extraction, warps: int
    ) -> _Found | None:
        """Warp the finer image onto the coarser by the homography of matches; match again.

        Returns None if the matches determine no homography, or if it needs no warp.
        """
        fit = self._fit_homography(matches, known)
        if fit is None:
            return None
        H, inliers = fit
        return self._match_warped(image0, image1, H, matches.points0[inliers], known, warps)

    def _fit_homography(self, matches: Matches, known: _Extraction) -> tuple[Matrix, Mask] | None:
        """The homography of matches, and which of them agree with it; None if there is none."""
        if len(matches) < self.config.min_inliers:
            return None
        points = reduced_points(matches.points0, matches.points1, known.factors)
        fit = quick_homography(*points, self.config.tolerance)
        if fit is None or fit[1].sum() < self.config.min_inliers:
            return None
        (factor0, factor1), (H, inliers) = known.factors, fit
        H = np.diag((1 / factor1, 1 / factor1, 1.0)) @ H @ np.diag((factor0, factor0, 1.0))
        return H, inliers

    def _match_warped(
        self, image0: Gray, image1: Gray, H: Matrix, points: Float, known: _Extraction, warps: int
    ) -> _Found | None:
        """Warp the finer image onto the coarser by a homography; match. None if it is mild."""
        if is_mild(H, points, self.config.mild_ratio, self.config.max_plain_rotation):
            return None
        ratio = local_scale(H, points.mean(0, dtype=np.float64))
        if not 1 / 32 < ratio < 32:
            return None
        if ratio <= 1:  # image 0 is the finer one
            view1 = View.resized(image1, self.pipeline.shrink_factor(image1), 0)
            view0 = View.warped(image0, view1.from_original @ H, view1.image.shape)
        else:
            view0 = View.resized(image0, self.pipeline.shrink_factor(image0), 0)
            onto = view0.from_original @ np.linalg.inv(H)
            view1 = View.warped(image1, onto, view0.image.shape)
        return self._match_views(view0, view1, known, warps)


def relative_view(matches: Matches) -> tuple[float, float]:
    """Rotation and scale of image 1 relative to image 0, from the offsets between matches.

    Returns:
        Clockwise rotation in degrees, in (−180, 180]; pixels of image 1 per pixel of image 0. They
        are 0 and 1 if no two matches are more than 1 px apart in both images.
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

"""Suite of images and their warped copies; metrics of every homography suite."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from featherglue.errors import ConfigError
from featherglue.evaluation.aggregation import (
    auc_by_estimator,
    counts,
    error_or_failure,
    mean,
    percent,
)
from featherglue.evaluation.pair_lists import (
    HomographyPair,
    draw_homography_pairs,
    read_homography_pairs,
)
from featherglue.evaluation.suites import Metrics, PairResult
from featherglue.evaluation.views import HomographyViews, warped_views
from featherglue.geometry.direct_linear_transform import weighted_homography
from featherglue.geometry.estimation import Method, estimate_homography
from featherglue.geometry.metrics import Array, MatchMetrics, homography_match_metrics
from featherglue.geometry.projection import corner_error, reprojection_errors
from featherglue.types import MatchResult

# Name of an AUC in the summary -> name of the error of a pair that it is computed from.
ESTIMATORS = {
    "auc": "error",
    "auc_lo": "error_lo",
    "auc_magsac": "error_magsac",
    "auc_dlt": "error_dlt",
}
RATIOS = ("precision", "recall", "matching_score")


@dataclass(frozen=True, kw_only=True)
class HomographyConfig:
    """Estimation of homographies and criteria of correct matches.

    Attributes:
        threshold: px, maximum error of a correct match, of a true correspondence and of an inlier.
        iterations: maximum number of iterations of RANSAC and MAGSAC++.
        confidence: probability of the right model at which they stop early, in (0, 1).
        seed: seed of MAGSAC++ and of everything that the suite draws. OpenCV's RANSAC ignores it:
            it always draws the same samples.

    Raises:
        ConfigError: a value out of range.
    """

    threshold: float = 3.0
    iterations: int = 3000
    confidence: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and 0 < self.confidence < 1):
            raise ConfigError("threshold must be positive, confidence between 0 and 1")
        if self.iterations < 1 or self.seed < 0:
            raise ConfigError("iterations must be at least 1, seed at least 0")


@dataclass(frozen=True, kw_only=True)
class HomographySuite:
    """Images of a folder, resized to `size`, and their copies warped by homographies.

    The summary holds the AUC of the mean corner error by estimator: RANSAC (`auc`), RANSAC with
    local optimization (`auc_lo`), MAGSAC++ (`auc_magsac`) and the direct linear transform over
    all matches, weighted by their confidence (`auc_dlt`). It also holds `precision`, `recall` and
    `matching_score`.

    Attributes:
        folder: folder of the images.
        pair_file: lines `image h00 … h22`, H for images of `size`; None draws a homography from
            the seed for every image of the folder.
        photometric: whether the second image has random photometric change.
        size: (width, height) in pixels of both images.
        thresholds: px, thresholds of the AUC.
        config: estimation of homographies and criteria of correct matches.
    """

    name: ClassVar[str] = "homography"
    folder: str | os.PathLike[str]
    pair_file: str | os.PathLike[str] | None = None
    photometric: bool = True
    size: tuple[int, int] = (640, 480)
    thresholds: tuple[float, ...] = (5, 10, 25)
    config: HomographyConfig = field(default_factory=HomographyConfig)

    def pairs(self) -> list[HomographyPair]:
        if self.pair_file is None:
            return draw_homography_pairs(self.folder, self.size, self.config.seed)
        return read_homography_pairs(self.folder, self.pair_file, self.size)

    def views(self, pair: HomographyPair) -> HomographyViews:
        return warped_views(pair, self.size, self.config.seed if self.photometric else None)

    def measure(self, views: HomographyViews, matched: MatchResult) -> tuple[Metrics, str]:
        return measure_homography(views, matched, self.config)

    def failed_metrics(self) -> Metrics:
        return failed_homography()

    def normalized_errors(self, views: HomographyViews, matched: MatchResult) -> Array:
        return homography_deviations(views, matched, self.config)

    def summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        return summarize_homographies(results, self.thresholds)

    def settings(self) -> dict[str, Any]:
        return {
            "photometric": self.photometric,
            "size": list(self.size),
            "thresholds": list(self.thresholds),
            **vars(self.config),
        }

    def source(self) -> dict[str, str]:
        listed = {} if self.pair_file is None else {"list": os.fspath(self.pair_file)}
        return {"folder": os.fspath(self.folder)} | listed


def measure_homography(
    views: HomographyViews, matched: MatchResult, config: HomographyConfig
) -> tuple[Metrics, str]:
    """Corner errors by four estimators, and metrics of the matches.

    The pair fails if RANSAC finds no model: its error is infinite and its ratios are 0.
    """
    matches = matched.matches

    def robust(method: Method, local_optimization: bool = False) -> float:
        return robust_corner_error(views, matched, config, method, local_optimization)

    def linear() -> float:
        H = weighted_homography(matches.points0, matches.points1, matches.scores)
        return corner_error(H, views.H, matched.features0.image_size)

    error, failure = error_or_failure(lambda: robust("ransac"))
    metrics = match_metrics(views, matched, config)
    ratios = {name: 0.0 if failure else getattr(metrics, name) for name in RATIOS}
    return {
        "error": error,
        "error_lo": error_or_failure(lambda: robust("ransac", local_optimization=True))[0],
        "error_magsac": error_or_failure(lambda: robust("magsac"))[0],
        "error_dlt": error_or_failure(linear)[0],
        **ratios,
        "matches": metrics.matches,
        "correspondences": metrics.correspondences,
        "keypoints0": len(matched.features0),
        "keypoints1": len(matched.features1),
    }, failure


def robust_corner_error(
    views: HomographyViews,
    matched: MatchResult,
    config: HomographyConfig,
    method: Method = "ransac",
    local_optimization: bool = False,
) -> float:
    """Mean distance of the four corners under the estimated and the true homography, in pixels.

    Raises:
        EstimationError: the matches give no homography.
    """
    estimate = estimate_homography(
        matched.matches.points0,
        matched.matches.points1,
        threshold=config.threshold,
        method=method,
        iterations=config.iterations,
        confidence=config.confidence,
        seed=config.seed,
        local_optimization=local_optimization,
        max_false_alarms=None,  # the published protocol scores every estimate
    )
    return corner_error(estimate.model, views.H, matched.features0.image_size)


def match_metrics(
    views: HomographyViews, matched: MatchResult, config: HomographyConfig
) -> MatchMetrics:
    """Metrics of the matches under the true homography."""
    features0, features1, matches = matched.features0, matched.features1, matched.matches
    return homography_match_metrics(
        features0.keypoints,
        features1.keypoints,
        matches.indices,
        matches.points0,
        matches.points1,
        views.H,
        features0.image_size,
        features1.image_size,
        config.threshold,
    )


def failed_homography() -> Metrics:
    """The metrics of a pair that could not be matched."""
    zero = (*RATIOS, "matches", "correspondences", "keypoints0", "keypoints1")
    return dict.fromkeys(ESTIMATORS.values(), float("inf")) | dict.fromkeys(zero, 0.0)


def homography_deviations(
    views: HomographyViews, matched: MatchResult, config: HomographyConfig
) -> Array:
    """Reprojection errors of the matches under the true homography, over the threshold; (M,)."""
    matches = matched.matches
    errors = reprojection_errors(matches.points0, matches.points1, views.H)
    return np.asarray(errors / config.threshold)


def summarize_homographies(
    results: Sequence[PairResult], thresholds: Sequence[float]
) -> dict[str, Any]:
    """AUC by estimator and threshold, means over pairs, and counts. Ratios are in percent."""
    ratios = {name: percent(results, name) for name in RATIOS}
    keypoints = (mean(results, "keypoints0") + mean(results, "keypoints1")) / 2
    return (
        auc_by_estimator(results, thresholds, ESTIMATORS)
        | ratios
        | {"keypoints": keypoints}
        | counts(results)
    )

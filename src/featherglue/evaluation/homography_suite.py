"""Homographies: images and their warped copies; and what every homography suite measures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from featherglue.errors import UsageError
from featherglue.evaluation.pair_lists import (
    HomographyPair,
    draw_homography_pairs,
    read_homography_pairs,
)
from featherglue.evaluation.suites import (
    Metrics,
    PairResult,
    areas,
    attempt,
    counts,
    mean,
    percent,
)
from featherglue.evaluation.views import HomographyViews, warped_views
from featherglue.geometry.direct_linear_transform import weighted_homography
from featherglue.geometry.estimation import Method, estimate_homography
from featherglue.geometry.metrics import Array, homography_match_metrics
from featherglue.geometry.projection import corner_error, reprojection_errors
from featherglue.types import MatchResult

# Figure in the summary → the error of each pair that it is made of.
ESTIMATES = {
    "auc": "error",
    "auc_lo": "error_lo",
    "auc_magsac": "error_magsac",
    "auc_dlt": "error_dlt",
}
SHARES = ("precision", "recall", "matching_score")


@dataclass(frozen=True, kw_only=True)
class HomographyConfig:
    """How homographies are estimated and matches judged.

    Attributes:
        threshold: px, of a correct match, a true correspondence and RANSAC's inliers.
        iterations: most that RANSAC and MAGSAC++ do; confidence: at which they stop
            earlier (OpenCV's own default).
        seed: of MAGSAC++; OpenCV's RANSAC always
            draws the same samples.
    """

    threshold: float = 3.0
    iterations: int = 3000
    confidence: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and 0 < self.confidence < 1):
            raise UsageError("threshold must be positive, confidence between 0 and 1")
        if self.iterations < 1 or self.seed < 0:
            raise UsageError("iterations must be at least 1, seed at least 0")


@dataclass(frozen=True, kw_only=True)
class HomographySuite:
    """Images resized to `size` and warped by a homography to the same size.

    AUC of the mean distance of the four corners under the estimated and the true homography, by
    RANSAC (`auc`), the same fitted anew (`auc_lo`), MAGSAC++ (`auc_magsac`) and a direct linear
    transform over all matches, weighted by their scores (`auc_dlt`); precision, recall, matching
    score.

    Attributes:
        folder: the images. pair_file: lines `image h00 … h22`; None draws a homography for
            every image of the folder from the seed.
        photometric: change the light of the second image, by the seed and the pair's index.
        size: (width, height). thresholds: px, of the AUC.
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

    def views(self, task: HomographyPair) -> HomographyViews:
        return warped_views(task, self.size, self.config.seed if self.photometric else None)

    def measure(self, views: HomographyViews, matched: MatchResult) -> tuple[Metrics, str]:
        return measure_homography(views, matched, self.config)

    def unreadable(self) -> Metrics:
        return failed_numbers()

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
    """Corner errors by four estimators and the quality of the matches.

    The pair fails where RANSAC finds nothing: its error is infinite then and its shares are 0.
    """
    features0, features1, matches = matched.features0, matched.features1, matched.matches
    size0, size1 = features0.image_size, features1.image_size

    def robust(method: Method, local_optimization: bool = False) -> float:
        estimate = estimate_homography(
            matches.points0,
            matches.points1,
            threshold=config.threshold,
            method=method,
            iterations=config.iterations,
            confidence=config.confidence,
            seed=config.seed,
            local_optimization=local_optimization,
        )
        return corner_error(estimate.model, views.H, size0)

    def direct() -> float:
        H = weighted_homography(matches.points0, matches.points1, matches.scores)
        return corner_error(H, views.H, size0)

    error, failure = attempt(lambda: robust("ransac"))
    metrics = homography_match_metrics(
        features0.keypoints,
        features1.keypoints,
        matches.indices,
        matches.points0,
        matches.points1,
        views.H,
        size0,
        size1,
        config.threshold,
    )
    shares = {name: 0.0 if failure else getattr(metrics, name) for name in SHARES}
    return {
        "error": error,
        "error_lo": attempt(lambda: robust("ransac", local_optimization=True))[0],
        "error_magsac": attempt(lambda: robust("magsac"))[0],
        "error_dlt": attempt(direct)[0],
        **shares,
        "matches": metrics.matches,
        "correspondences": metrics.correspondences,
        "keypoints0": len(features0),
        "keypoints1": len(features1),
    }, failure


def failed_numbers() -> Metrics:
    """Of a pair of which an image cannot be read."""
    zero = (*SHARES, "matches", "correspondences", "keypoints0", "keypoints1")
    return dict.fromkeys(ESTIMATES.values(), float("inf")) | dict.fromkeys(zero, 0.0)


def homography_deviations(
    views: HomographyViews, matched: MatchResult, config: HomographyConfig
) -> Array:
    """Distances of the matches from the truth, over the threshold."""
    matches = matched.matches
    errors = reprojection_errors(matches.points0, matches.points1, views.H)
    return np.asarray(errors / config.threshold)


def summarize_homographies(
    results: Sequence[PairResult], thresholds: Sequence[float]
) -> dict[str, Any]:
    """AUC by estimator and threshold, and means over pairs; percent, but for `matches`."""
    shares = {name: percent(results, name) for name in SHARES}
    keypoints = (mean(results, "keypoints0") + mean(results, "keypoints1")) / 2
    return (
        areas(results, thresholds, ESTIMATES) | shares | {"keypoints": keypoints} | counts(results)
    )

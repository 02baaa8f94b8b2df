"""Suite of HPatches (Balntas et al. 2017): planar scenes, changes of light or of viewpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from featherglue.evaluation.aggregation import by_threshold, mean, percent
from featherglue.evaluation.homography_suite import (
    HomographyConfig,
    failed_homography,
    homography_deviations,
    measure_homography,
    summarize_homographies,
)
from featherglue.evaluation.pair_lists import HomographyPair, read_hpatches_pairs
from featherglue.evaluation.suites import Metrics, PairResult
from featherglue.evaluation.views import HomographyViews, photographed_views
from featherglue.geometry.metrics import Array, accuracy, detector_metrics, matching_accuracy
from featherglue.types import MatchResult

GROUPS = ("illumination", "viewpoint")
MMA_THRESHOLDS = tuple(range(1, 11))


@dataclass(frozen=True, kw_only=True)
class HPatchesSuite:
    """Pairs of the first image of every sequence with the other five, at full size.

    The summary holds that of `HomographySuite` and `accuracy` (percent of pairs whose corner
    error by RANSAC is at most a threshold), `mma` (mean matching accuracy at 1 … 10 px, percent),
    `repeatability` (percent) and `localization_error` (px, mean over the pairs that have one) of
    the detector. Its entries `illumination` and `viewpoint` hold the same for their sequences.

    Attributes:
        folder: folder of the sequences `i_*` and `v_*`.
        thresholds: px, thresholds of AUC and accuracy.
        config: estimation of homographies and criteria of correct matches.
    """

    name: ClassVar[str] = "hpatches"
    folder: str | os.PathLike[str]
    thresholds: tuple[float, ...] = (1, 3, 5)
    config: HomographyConfig = field(default_factory=HomographyConfig)

    def pairs(self) -> list[HomographyPair]:
        return read_hpatches_pairs(self.folder)

    def views(self, pair: HomographyPair) -> HomographyViews:
        return photographed_views(pair)

    def measure(self, views: HomographyViews, matched: MatchResult) -> tuple[Metrics, str]:
        metrics, failure = measure_homography(views, matched, self.config)
        features0, features1, matches = matched.features0, matched.features1, matched.matches
        detector = detector_metrics(
            features0.keypoints,
            features1.keypoints,
            views.H,
            features0.image_size,
            features1.image_size,
            self.config.threshold,
        )
        ratios = matching_accuracy(matches.points0, matches.points1, views.H, MMA_THRESHOLDS)
        metrics |= {
            f"mma_{t}": 0.0 if failure else ratio
            for t, ratio in zip(MMA_THRESHOLDS, ratios, strict=True)
        }
        metrics["repeatability"] = detector.repeatability
        metrics["localization_error"] = detector.localization_error
        return metrics, failure

    def failed_metrics(self) -> Metrics:
        ratios = {f"mma_{t}": 0.0 for t in MMA_THRESHOLDS}
        return (
            failed_homography()
            | ratios
            | {"repeatability": 0.0, "localization_error": float("nan")}
        )

    def normalized_errors(self, views: HomographyViews, matched: MatchResult) -> Array:
        return homography_deviations(views, matched, self.config)

    def summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        summary = self._summarize(results)
        for group in GROUPS:
            chosen = [result for result in results if result.group == group]
            if chosen:
                summary[group] = self._summarize(chosen)
        return summary

    def _summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        errors = [result.metrics["error"] for result in results]
        ratios = [percent(results, f"mma_{t}") for t in MMA_THRESHOLDS]
        return {
            **summarize_homographies(results, self.thresholds),
            "accuracy": by_threshold(self.thresholds, accuracy(errors, self.thresholds)),
            "mma": by_threshold(MMA_THRESHOLDS, ratios),
            "repeatability": percent(results, "repeatability"),
            "localization_error": mean(results, "localization_error"),
        }

    def settings(self) -> dict[str, Any]:
        return {"thresholds": list(self.thresholds), **vars(self.config)}

    def source(self) -> dict[str, str]:
        return {"folder": os.fspath(self.folder)}

"""Suite of relative poses of calibrated cameras, as in SuperGlue's evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from featherglue.errors import ConfigError, EstimationError
from featherglue.evaluation.aggregation import auc_by_estimator, counts, mean, percent
from featherglue.evaluation.pair_lists import PosePair, read_pose_pairs
from featherglue.evaluation.suites import Metrics, PairResult
from featherglue.evaluation.views import PoseViews, pose_views
from featherglue.geometry.epipolar import epipolar_errors, normalize_points, pose_errors
from featherglue.geometry.estimates import RelativePose
from featherglue.geometry.estimation import estimate_relative_pose, optimize_relative_pose
from featherglue.geometry.metrics import Array
from featherglue.types import MatchResult

# Name of an AUC in the summary -> name of the error of a pair that it is computed from.
ESTIMATORS = {"auc": "error", "auc_lo": "error_lo"}


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """Estimation of poses and criteria of correct matches.

    Attributes:
        threshold: px, maximum distance of an inlier from its epipolar line.
        confidence: probability of the right model at which RANSAC stops, in (0, 1).
        epipolar: symmetric squared epipolar distance in normalized coordinates below which a
            match is correct.
        seed: recorded only; OpenCV's RANSAC always draws the same samples.

    Raises:
        ConfigError: a value out of range.
    """

    threshold: float = 1.0
    confidence: float = 0.99999
    epipolar: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.epipolar > 0 and 0 < self.confidence < 1):
            raise ConfigError("thresholds must be positive, confidence between 0 and 1")
        if self.seed < 0:
            raise ConfigError("seed must be at least 0")


@dataclass(frozen=True, kw_only=True)
class PoseSuite:
    """Pairs of photographs with known intrinsics and relative pose.

    The summary holds the AUC of the pose error, which is the larger of the angular errors of
    rotation and of translation: by OpenCV's RANSAC on the essential matrix (`auc`) and by RANSAC
    with local optimization (`auc_lo`). `precision` is the ratio of matches that agree with the
    true epipolar geometry; `matching_score` is their number over that of the keypoints of image 0.
    True correspondences are unknown without depth: `recall` repeats the matching score, which is
    a lower bound.

    Attributes:
        folder: folder that the paths in the list start from.
        pair_file: SuperGlue pair list with 38 tokens per line.
        thresholds: degrees, thresholds of the AUC.
        config: estimation of poses and criteria of correct matches.
    """

    name: ClassVar[str] = "pose"
    folder: str | os.PathLike[str]
    pair_file: str | os.PathLike[str]
    thresholds: tuple[float, ...] = (5, 10, 20)
    config: PoseConfig = field(default_factory=PoseConfig)

    def pairs(self) -> list[PosePair]:
        return read_pose_pairs(self.folder, self.pair_file)

    def views(self, pair: PosePair) -> PoseViews:
        return pose_views(pair)

    def measure(self, views: PoseViews, matched: MatchResult) -> tuple[Metrics, str]:
        features0, matches = matched.features0, matched.matches
        try:
            pose = self._estimate(views, matched)
            rotation, translation = self._errors(views, pose)
            optimized = max(self._errors(views, self._optimize(views, matched, pose)))
            failure = ""
        except EstimationError as error:
            rotation = translation = optimized = float("inf")
            failure = str(error)
        correct = 0 if failure else int(np.sum(self.normalized_errors(views, matched) < 1))
        matching_score = correct / max(len(features0), 1)
        return {
            "error": max(rotation, translation),
            "error_lo": optimized,
            "rotation_error": rotation,
            "translation_error": translation,
            "precision": correct / max(len(matches), 1),
            "recall": matching_score,
            "matching_score": matching_score,
            "matches": len(matches),
            "keypoints0": len(features0),
            "keypoints1": len(matched.features1),
        }, failure

    def _estimate(self, views: PoseViews, matched: MatchResult) -> RelativePose:
        return estimate_relative_pose(
            matched.matches.points0,
            matched.matches.points1,
            views.K0,
            views.K1,
            threshold=self.config.threshold,
            confidence=self.config.confidence,
            seed=self.config.seed,
            local_optimization=False,
            max_false_alarms=None,
        )

    def _optimize(self, views: PoseViews, matched: MatchResult, pose: RelativePose) -> RelativePose:
        points0, points1 = matched.matches.points0, matched.matches.points1
        threshold = self.config.threshold
        return optimize_relative_pose(
            pose, points0, points1, views.K0, views.K1, threshold=threshold
        )

    def _errors(self, views: PoseViews, pose: RelativePose) -> tuple[float, float]:
        """Angular errors of rotation and translation; that of translation is 0 if there is none."""
        rotation, translation = pose_errors(pose, views.T_0to1)
        return rotation, translation if views.T_0to1[:3, 3].any() else 0.0

    def failed_metrics(self) -> Metrics:
        errors = (*ESTIMATORS.values(), "rotation_error", "translation_error")
        zero = ("precision", "recall", "matching_score", "matches", "keypoints0", "keypoints1")
        return dict.fromkeys(errors, float("inf")) | dict.fromkeys(zero, 0.0)

    def normalized_errors(self, views: PoseViews, matched: MatchResult) -> Array:
        rays0 = normalize_points(matched.matches.points0, views.K0)
        rays1 = normalize_points(matched.matches.points1, views.K1)
        return np.asarray(epipolar_errors(rays0, rays1, views.T_0to1) / self.config.epipolar)

    def summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        ratios = ("precision", "recall", "matching_score")
        return {
            **auc_by_estimator(results, self.thresholds, ESTIMATORS),
            **{name: percent(results, name) for name in ratios},
            "keypoints": (mean(results, "keypoints0") + mean(results, "keypoints1")) / 2,
            **counts(results),
        }

    def settings(self) -> dict[str, Any]:
        return {"thresholds": list(self.thresholds), **vars(self.config)}

    def source(self) -> dict[str, str]:
        return {"folder": os.fspath(self.folder), "pairs": os.fspath(self.pair_file)}

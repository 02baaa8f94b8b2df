"""Relative poses of calibrated cameras, as SuperGlue's evaluation on ScanNet and YFCC has it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from featherglue.errors import EstimationError, UsageError
from featherglue.evaluation.pair_lists import PosePair, read_pose_pairs
from featherglue.evaluation.suites import (
    Metrics,
    PairResult,
    areas,
    counts,
    mean,
    percent,
)
from featherglue.evaluation.views import PoseViews, pose_views
from featherglue.geometry.epipolar import epipolar_errors, normalize_points, pose_errors
from featherglue.geometry.estimates import RelativePose
from featherglue.geometry.estimation import estimate_relative_pose, optimize_relative_pose
from featherglue.geometry.metrics import Array
from featherglue.types import MatchResult

# Figure in the summary → the error of each pair that it is made of.
ESTIMATES = {"auc": "error", "auc_lo": "error_lo"}


@dataclass(frozen=True, kw_only=True)
class PoseConfig:
    """How poses are estimated and matches judged.

    Attributes:
        threshold: px, distance of RANSAC's inliers from the epipolar line; it is divided by the
            mean focal length. confidence: of RANSAC. seed: recorded, but
            OpenCV's RANSAC always draws the same samples.
        epipolar: symmetric squared epipolar distance, in normalised coordinates, below which a
            match is correct.
    """

    threshold: float = 1.0
    confidence: float = 0.99999
    epipolar: float = 5e-4
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and self.epipolar > 0 and 0 < self.confidence < 1):
            raise UsageError("thresholds must be positive, confidence between 0 and 1")
        if self.seed < 0:
            raise UsageError("seed must be at least 0")


@dataclass(frozen=True, kw_only=True)
class PoseSuite:
    """Pairs of photographs with known intrinsics and relative pose.

    AUC of the larger of the errors of rotation and of the direction of translation, by RANSAC
    on the essential matrix (`auc`), and the same fitted anew (`auc_lo`); `precision` (matches
    that agree with the true epipolar geometry / matches) and `matching_score` (such matches /
    keypoints of image 0). True correspondences are not known without depth: `recall` repeats the
    matching score, a lower bound of it.

    Attributes:
        folder: that the list's paths start from. pair_file: 38 tokens in a line.
        thresholds: degrees, of the AUC.
    """

    name: ClassVar[str] = "pose"
    folder: str | os.PathLike[str]
    pair_file: str | os.PathLike[str]
    thresholds: tuple[float, ...] = (5, 10, 20)
    config: PoseConfig = field(default_factory=PoseConfig)

    def pairs(self) -> list[PosePair]:
        return read_pose_pairs(self.folder, self.pair_file)

    def views(self, task: PosePair) -> PoseViews:
        return pose_views(task)

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
        )

    def _optimize(self, views: PoseViews, matched: MatchResult, pose: RelativePose) -> RelativePose:
        points0, points1 = matched.matches.points0, matched.matches.points1
        threshold = self.config.threshold
        return optimize_relative_pose(
            pose, points0, points1, views.K0, views.K1, threshold=threshold
        )

    def _errors(self, views: PoseViews, pose: RelativePose) -> tuple[float, float]:
        """Degrees. Without a true translation its direction cannot be judged: 0 then."""
        rotation, translation = pose_errors(pose, views.T_0to1)
        return rotation, translation if views.T_0to1[:3, 3].any() else 0.0

    def unreadable(self) -> Metrics:
        errors = (*ESTIMATES.values(), "rotation_error", "translation_error")
        zero = ("precision", "recall", "matching_score", "matches", "keypoints0", "keypoints1")
        return dict.fromkeys(errors, float("inf")) | dict.fromkeys(zero, 0.0)

    def normalized_errors(self, views: PoseViews, matched: MatchResult) -> Array:
        rays0 = normalize_points(matched.matches.points0, views.K0)
        rays1 = normalize_points(matched.matches.points1, views.K1)
        return np.asarray(epipolar_errors(rays0, rays1, views.T_0to1) / self.config.epipolar)

    def summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        shares = ("precision", "recall", "matching_score")
        return {
            **areas(results, self.thresholds, ESTIMATES),
            **{name: percent(results, name) for name in shares},
            "keypoints": (mean(results, "keypoints0") + mean(results, "keypoints1")) / 2,
            **counts(results),
        }

    def settings(self) -> dict[str, Any]:
        return {"thresholds": list(self.thresholds), **vars(self.config)}

    def source(self) -> dict[str, str]:
        return {"folder": os.fspath(self.folder), "pairs": os.fspath(self.pair_file)}

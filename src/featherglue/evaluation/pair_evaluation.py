"""Evaluation of one pair: read, extract, match, measure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from featherglue.errors import ENVIRONMENT_FAULTS, FeatherglueError, ImageError, ResourceError
from featherglue.evaluation.result_cache import FeatureCache
from featherglue.evaluation.suites import ImagePair, PairResult, Pipeline, Suite
from featherglue.machine import exhausted_resource
from featherglue.types import MatchResult

_PAIR_FAULTS = (FeatherglueError, cv2.error, np.linalg.LinAlgError)


class PairEvaluator:
    """Evaluates pairs of a suite.

    Args:
        pipeline: extracts and matches.
        suite: the suite.
        folder: cache folder of the evaluation; None stores nothing.
    """

    def __init__(
        self, pipeline: Pipeline, suite: Suite[Any, Any], folder: Path | None = None
    ) -> None:
        self._pipeline, self._suite = pipeline, suite
        self._features = FeatureCache(pipeline, folder)

    def match(self, pair: ImagePair) -> tuple[Any, MatchResult]:
        """The views of a pair, and their matches.

        Raises:
            ImageError: an image cannot be read.
            OutputError: the features cannot be stored.
        """
        views = self._suite.views(pair)
        features0 = self._features.extract(views.image0)
        features1 = self._features.extract(views.image1)
        return views, self._pipeline.match(features0, features1)

    def __call__(self, pair: ImagePair) -> PairResult:
        """The result of a pair. An error that lies in the pair becomes its failure.

        Raises:
            ResourceError: the machine lacks memory or another resource; this says nothing about
                the pair.
            OutputError: the features cannot be stored.
            RuntimeUnavailableError: the runtime cannot run the model.
        """
        unreadable = False
        try:
            views, matched = self.match(pair)
            metrics, failure = self._suite.measure(views, matched)
        except ENVIRONMENT_FAULTS:
            raise
        except Exception as error:
            lack = exhausted_resource(error)
            if lack:
                raise ResourceError(f"{pair.name}: {lack}") from None
            if not isinstance(error, _PAIR_FAULTS):
                raise
            metrics, unreadable = self._suite.failed_metrics(), isinstance(error, ImageError)
            failure = str(error) if unreadable else f"{type(error).__name__}: {error}"
        return PairResult(
            index=pair.index,
            name=pair.name,
            group=pair.group,
            metrics=metrics,
            failure=failure,
            unreadable=unreadable,
        )

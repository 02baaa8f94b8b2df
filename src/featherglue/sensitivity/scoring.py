"""Scores of models that differ from an original in few layers, on a sample of a suite.

Images are read once, and the features of the original are extracted once. Networks run from their
first changed layer (see `prefix_cache`), and features are extracted again only if the extractor has
changed.

With 24 pairs, without refinement, on one thread of an AVX2 machine, a score of a model with 64
layers takes 1.4 s if a layer of the matcher has changed, and 6 s if one of the extractor has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featherglue.errors import ConfigError
from featherglue.evaluation.aggregation import error_or_failure
from featherglue.evaluation.homography_suite import (
    HomographySuite,
    match_metrics,
    robust_corner_error,
)
from featherglue.evaluation.pair_lists import HomographyPair
from featherglue.evaluation.views import HomographyViews
from featherglue.matching.extractors import NetworkExtractor
from featherglue.matching.matchers import NetworkMatcher
from featherglue.sensitivity.pair_scores import PairScores
from featherglue.sensitivity.prefix_cache import CachedRuntime, PrefixCache
from featherglue.session import Session
from featherglue.types import Features, MatchResult

if TYPE_CHECKING:
    from featherglue.models.model import Model

FeaturePair = tuple[Features, Features]


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """Settings of scoring.

    Attributes:
        num_pairs: number of pairs of the suite, drawn at random. All pairs if there are fewer.
        seed: seed of the draw.
        refine: refine matches to subpixel accuracy. This takes most of the time and hides the
            effect of a change on keypoints.
        max_keypoints: maximum number of keypoints of an image. None uses that of the model.
        cache_bytes: maximum number of bytes of cached activations.

    Raises:
        ConfigError: a value is out of range.
    """

    num_pairs: int = 32
    seed: int = 0
    refine: bool = False
    max_keypoints: int | None = None
    cache_bytes: int = 2**30

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.seed < 0 or self.cache_bytes < 0:
            raise ConfigError("num_pairs must be at least 1, seed and cache_bytes at least 0")
        if self.max_keypoints is not None and self.max_keypoints < 1:
            raise ConfigError(f"max_keypoints must be at least 1, not {self.max_keypoints}")


class HomographyScorer:
    """Scores models. The result equals that of `evaluate` with PyTorch on the same pairs.

    Guided matching is off: it would replace matches that a change of the networks has cost.

    Args:
        original: model from which the scored models differ in few layers.
        suite: suite with the pairs.
        config: settings.
        progress: called with the number of prepared pairs and the number of all pairs.

    Attributes:
        views: the images and the homography of each pair of the sample.

    Raises:
        UsageError: the original lacks a network.
        PairListError: the list of pairs is malformed.
        ImageError: an image cannot be read.
    """

    def __init__(
        self,
        original: Model,
        suite: HomographySuite,
        config: ScoringConfig | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.suite, self.config = suite, config or ScoringConfig()
        pairs = sample_pairs(suite.pairs(), self.config.num_pairs, self.config.seed)
        self._original = original
        self._cache = PrefixCache(original, 2 * len(pairs), len(pairs), self.config.cache_bytes)
        self.views: list[HomographyViews] = []
        self._features: list[FeaturePair] = []
        session = self._session(original, self._cache.runtime(original))
        for done, pair in enumerate(pairs):
            progress(done, len(pairs))
            views = suite.views(pair)
            self.views.append(views)
            features = session.extract(views.image0), session.extract(views.image1)
            self._features.append(features)
            session.match(*features)  # fills the cache of the matcher
        progress(len(pairs), len(pairs))

    def __call__(self, model: Model) -> dict[str, float]:
        """Return the scores of a model, in percent.

        `auc5`, `auc10`, … are the AUC of the corner error with RANSAC at the thresholds of the
        suite in pixels. A failed pair has an infinite error, and a `precision` and `recall` of 0.

        Raises:
            UsageError: the model lacks a network.
        """
        return self.score(model)

    def score(
        self, model: Model, adapt: Callable[[Session], Session] = lambda session: session
    ) -> dict[str, float]:
        """Return the scores of a model, with a session that replaces its own.

        Args:
            model: the model to score.
            adapt: given the session of the model, returns the session that extracts and matches.

        Returns:
            The scores in percent, as from `__call__`.

        Raises:
            UsageError: the model lacks a network.
        """
        measured = self.measure(model, adapt)
        return measured["refined" if self.config.refine else "unrefined"].summary(
            self.suite.thresholds
        )

    def measure(
        self, model: Model, adapt: Callable[[Session], Session] = lambda session: session
    ) -> dict[str, PairScores]:
        """Return the scores of each pair, without refinement and with it.

        Args:
            model: the model to score.
            adapt: as in `score`.

        Returns:
            "unrefined" and, if `refine` is set, "refined": the same matches before and after
            refinement.

        Raises:
            UsageError: the model lacks a network.
        """
        runtime = self._cache.runtime(model)
        session = adapt(self._session(model, runtime))
        can_reuse = runtime.same_extractor and model.processing == self._original.processing
        rows: dict[str, list[tuple[float, float, float]]] = {"unrefined": []}
        for views, original in zip(self.views, self._features, strict=True):
            features = original
            if not can_reuse:
                features = session.extract(views.image0), session.extract(views.image1)
            matched = session.match(*features)
            rows["unrefined"].append(self._measure(views, _unrefined(matched)))
            if self.config.refine:
                rows.setdefault("refined", []).append(self._measure(views, matched))
        return {
            name: PairScores(*(np.array(column) for column in zip(*values, strict=True)))
            for name, values in rows.items()
        }

    def settings(self) -> dict[str, Any]:
        """Return everything that affects the scores; see `scoring_settings`."""
        return scoring_settings(self.suite, self.config)

    def _session(self, model: Model, runtime: CachedRuntime) -> Session:
        assert model.matcher is not None
        processing = dataclasses.replace(
            model.processing, refine=self.config.refine, guided_matching=False
        )
        if self.config.max_keypoints is not None:
            processing = dataclasses.replace(processing, max_keypoints=self.config.max_keypoints)
        bin_score = float(model.matcher.bin_score.detach())
        width = model.matcher.config.descriptor_dim
        return Session(
            NetworkExtractor(runtime, processing),
            NetworkMatcher(runtime, processing, bin_score, width),
            processing,
        )

    def _measure(self, views: HomographyViews, matched: MatchResult) -> tuple[float, float, float]:
        """Return the corner error in pixels, and precision and recall in [0, 1]."""
        config = self.suite.config
        error, failure = error_or_failure(lambda: robust_corner_error(views, matched, config))
        if failure:
            return error, 0.0, 0.0
        metrics = match_metrics(views, matched, config)
        return error, metrics.precision, metrics.recall


def scoring_settings(suite: HomographySuite, config: ScoringConfig) -> dict[str, Any]:
    """Return everything that affects the scores, as plain values for `scan.json`."""
    values = dataclasses.asdict(config)
    del values["cache_bytes"]
    return {"suite": suite.name, **suite.settings(), **suite.source(), **values}


def _unrefined(matched: MatchResult) -> MatchResult:
    """Return the matches with the detected keypoints of the second image."""
    matches = matched.matches
    points1 = matched.features1.keypoints[matches.indices[:, 1]]
    refined = np.zeros(len(points1), np.bool_)
    return dataclasses.replace(
        matched, matches=dataclasses.replace(matches, points1=points1, refined=refined)
    )


def sample_pairs(pairs: list[HomographyPair], count: int, seed: int) -> list[HomographyPair]:
    """Return `count` random pairs in their original order, or all if there are fewer."""
    if count >= len(pairs):
        return pairs
    drawn = np.random.default_rng(seed).choice(len(pairs), count, replace=False)
    return [pairs[i] for i in sorted(drawn)]

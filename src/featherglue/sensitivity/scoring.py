"""Scores of many models that differ little: a fixed sample of a suite, and what they share.

Images are read and the original's features found once. A model with another matcher is matched
on them, from its first layer that differs on (see `resuming`); one with another extractor is
extracted anew, from there on too.

A score of a `fast` of 64 layers on 24 pairs took 1.4 s for a layer of its matcher and 6 s for one
of its extractor (means; one thread of a busy AVX2 machine with 2 cores, no refinement): all layers
at 10 ratios are 25 minutes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featherglue.errors import UsageError
from featherglue.evaluation.aggregation import error_or_failure
from featherglue.evaluation.homography_suite import HomographySuite
from featherglue.evaluation.pair_lists import HomographyPair
from featherglue.evaluation.views import HomographyViews
from featherglue.geometry.estimation import estimate_homography
from featherglue.geometry.metrics import auc, homography_match_metrics
from featherglue.geometry.projection import corner_error
from featherglue.matching.extractors import NetworkExtractor
from featherglue.matching.matchers import NetworkMatcher
from featherglue.sensitivity.prefix_cache import Prefixes, ResumingRuntime
from featherglue.session import Session
from featherglue.types import Features, Matches

if TYPE_CHECKING:
    from featherglue.models.model import Model

Pair = tuple[Features, Features]


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """What models are scored on.

    Attributes:
        pairs: of the suite; more than there are takes all. seed: of which ones.
        refine: align matches to a fraction of a pixel, as sessions do; costs most of the time and
            hides what a change does to keypoints.
        memory: bytes for what is kept of the original, at most.
    """

    pairs: int = 32
    seed: int = 0
    refine: bool = False
    memory: int = 2**30

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.seed < 0 or self.memory < 0:
            raise UsageError("pairs must be at least 1, seed and memory at least 0")


class HomographyScorer:
    """Scores models as `evaluate` with a session in PyTorch would on the same pairs.

    Args:
        original: what the models differ from; it is extracted and matched first.
        progress: called with the number of pairs prepared and of all.

    Raises:
        UsageError: the original lacks a network.
        PairListError, ImageError: the suite, or an image of the sample, is unusable.
    """

    def __init__(
        self,
        original: Model,
        suite: HomographySuite,
        config: ScoringConfig | None = None,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.suite, self.config = suite, config or ScoringConfig()
        tasks = sample(suite.pairs(), self.config.pairs, self.config.seed)
        self._original = original
        self._prefixes = Prefixes(original, 2 * len(tasks), len(tasks), self.config.memory)
        self.views: list[HomographyViews] = []
        self._features: list[Pair] = []
        session = self._session(original, self._prefixes.runtime(original))
        for done, task in enumerate(tasks):
            progress(done, len(tasks))
            views = suite.views(task)
            self.views.append(views)
            features = session.extract(views.image0), session.extract(views.image1)
            self._features.append(features)
            session.match(*features)  # so that what flows through the matcher is kept
        progress(len(tasks), len(tasks))

    def __call__(self, model: Model) -> dict[str, float]:
        """AUC of the corner error by RANSAC (`auc5` … of the suite's thresholds), `precision` and
        `recall`, in percent. A pair that fails has an infinite error and shares of 0.

        Raises:
            UsageError: the model lacks a network.
        """
        return self.score(model)

    def score(
        self, model: Model, adapt: Callable[[Session], Session] = lambda session: session
    ) -> dict[str, float]:
        """As a call, by a session with another matcher or processing of matches.

        Args:
            adapt: gives the session that matches, from the model's.
        """
        runtime = self._prefixes.runtime(model)
        session = adapt(self._session(model, runtime))
        same = runtime.extracts_the_same and model.processing == self._original.processing
        rows = []
        for views, kept in zip(self.views, self._features, strict=True):
            features = kept
            if not same:
                features = session.extract(views.image0), session.extract(views.image1)
            rows.append(self._measure(views, features, session.match(*features).matches))
        errors, precision, recall = (list(column) for column in zip(*rows, strict=True))
        thresholds = self.suite.thresholds
        areas = {f"auc{t:g}": a for t, a in zip(thresholds, auc(errors, thresholds), strict=True)}
        shares = {"precision": precision, "recall": recall}
        return areas | {name: 100 * float(np.mean(values)) for name, values in shares.items()}

    def settings(self) -> dict[str, Any]:
        """What shapes the scores, as plain values: the same ones belong together."""
        config = dataclasses.asdict(self.config)
        del config["memory"]
        return {"suite": self.suite.name, **self.suite.settings(), **self.suite.source(), **config}

    def _session(self, model: Model, runtime: ResumingRuntime) -> Session:
        assert model.matcher is not None
        processing = dataclasses.replace(model.processing, refine=self.config.refine)
        bin_score = float(model.matcher.bin_score.detach())
        width = model.matcher.config.descriptor_dim
        return Session(
            NetworkExtractor(runtime, processing),
            NetworkMatcher(runtime, processing, bin_score, width),
            processing,
        )

    def _measure(
        self, views: HomographyViews, features: Pair, matches: Matches
    ) -> tuple[float, float, float]:
        """Corner error (px), precision and recall in [0, 1]; see `homography.measure_homography`,
        which estimates by other methods besides."""
        config, (size0, size1) = self.suite.config, (f.image_size for f in features)

        def estimate() -> float:
            homography = estimate_homography(
                matches.points0,
                matches.points1,
                threshold=config.threshold,
                method="ransac",
                iterations=config.iterations,
                confidence=config.confidence,
                local_optimization=False,
            )
            return corner_error(homography.model, views.H, size0)

        error, failure = error_or_failure(estimate)
        if failure:
            return error, 0.0, 0.0
        metrics = homography_match_metrics(
            features[0].keypoints,
            features[1].keypoints,
            matches.indices,
            matches.points0,
            matches.points1,
            views.H,
            size0,
            size1,
            config.threshold,
        )
        return error, metrics.precision, metrics.recall


def sample(tasks: list[HomographyPair], count: int, seed: int) -> list[HomographyPair]:
    """`count` of the tasks, drawn by the seed, in their order; all where there are no more."""
    if count >= len(tasks):
        return tasks
    drawn = np.random.default_rng(seed).choice(len(tasks), count, replace=False)
    return [tasks[i] for i in sorted(drawn)]

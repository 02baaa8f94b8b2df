"""Scores of a model on each pair of a sample, and confidence intervals by the bootstrap.

A sample of few pairs makes a small loss uncertain. The bootstrap (Efron and Tibshirani, An
Introduction to the Bootstrap, 1993) draws pairs with replacement. The original and the changed
model are compared on the same drawn pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.metrics import auc

Codes = NDArray[np.uint16]
THRESHOLDS = (5.0, 10.0, 25.0)  # px, of the AUC
_ERROR_STEP, _RATIO_STEP = 0.01, 1e-4  # px, and 1
_FAILED = np.iinfo(np.uint16).max


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of P pairs.

    Attributes:
        errors: (P,) float64, corner errors in pixels, infinite for failed pairs.
        precision: (P,) float64 in [0, 1].
        recall: (P,) float64 in [0, 1].
    """

    errors: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def encode(self) -> Codes:
        """Return codes (3, P) uint16: errors in 0.01 px, ratios in 0.0001."""
        errors = np.minimum(np.rint(self.errors / _ERROR_STEP), _FAILED)
        ratios = np.rint(np.stack([self.precision, self.recall]) / _RATIO_STEP)
        return np.concatenate([errors[None], ratios]).astype(np.uint16)

    @classmethod
    def decode(cls, codes: Codes) -> PairScores:
        """Return the scores of codes. Errors from 655.35 px count as failures."""
        failed = codes[0] == _FAILED
        errors = np.where(failed, np.inf, codes[0] * _ERROR_STEP)
        return cls(errors, codes[1] * _RATIO_STEP, codes[2] * _RATIO_STEP)

    def summary(self, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
        """Return `auc5`, `auc10`, …, `precision` and `recall` over all pairs, in percent."""
        areas = auc(self.errors, thresholds)
        named = {f"auc{t:g}": area for t, area in zip(thresholds, areas, strict=True)}
        ratios = {"precision": self.precision, "recall": self.recall}
        return named | {name: 100 * float(values.mean()) for name, values in ratios.items()}


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, in percentage points."""

    value: float
    low: float
    high: float


def loss_interval(
    original: PairScores,
    changed: PairScores,
    metric: str = "",
    num_draws: int = 1000,
    coverage: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Return the loss of a score and its percentile bootstrap interval over pairs.

    Args:
        original: scores of the original model.
        changed: scores of the changed model on the same pairs.
        metric: name of a score of `PairScores.summary`, or "" for the mean of all scores.
        num_draws: number of bootstrap samples.
        coverage: probability of the interval, in (0, 1).
        seed: seed of the draws.
    """
    count = len(original.errors)
    draws = np.random.default_rng(seed).integers(0, count, (num_draws, count))
    everything = np.arange(count)[None]
    losses = _scores(original, draws, metric) - _scores(changed, draws, metric)
    value = _scores(original, everything, metric) - _scores(changed, everything, metric)
    low, high = np.quantile(losses, [(1 - coverage) / 2, (1 + coverage) / 2])
    return Interval(float(value[0]), float(low), float(high))


def _scores(scores: PairScores, draws: NDArray[np.int64], metric: str) -> NDArray[np.float64]:
    """Return a score in percent for each row of drawn pairs (D, P)."""
    found = {f"auc{t:g}": _areas(scores.errors[draws], t) for t in THRESHOLDS if not metric}
    if metric.startswith("auc"):
        return _areas(scores.errors[draws], float(metric.removeprefix("auc")))
    for name in ("precision", "recall"):
        found[name] = 100 * getattr(scores, name)[draws].mean(1)
    return found[metric] if metric else np.mean(list(found.values()), axis=0)


def _areas(errors: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Return the AUC of each row of errors (D, P) in percent, as `geometry.metrics.auc` does."""
    ends = np.sort(errors, axis=1)
    count = ends.shape[1]
    inside = ends < threshold
    ends = np.minimum(ends, threshold)
    starts = np.concatenate([np.zeros((len(ends), 1)), ends[:, :-1]], axis=1)
    # The curve is linear up to an error below the threshold, and constant after the last of them.
    heights = (np.arange(count) + np.where(inside, 0.5, 0.0)) / count
    areas = ((ends - starts) * heights).sum(1) + (threshold - ends[:, -1]) * inside[:, -1]
    return np.asarray(100 * areas / threshold)

"""Metrics over many pairs: means, counts and AUC."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from featherglue.errors import EstimationError
from featherglue.evaluation.suites import PairResult
from featherglue.geometry.metrics import auc


def error_or_failure(estimate: Callable[[], float]) -> tuple[float, str]:
    """The error that `estimate` returns and "", or infinity and why there is no estimate."""
    try:
        return estimate(), ""
    except EstimationError as error:
        return float("inf"), str(error)


def percent(results: Sequence[PairResult], name: str) -> float:
    """Mean of a ratio over pairs, in percent."""
    return 100 * mean(results, name)


def mean(results: Sequence[PairResult], name: str) -> float:
    """Mean of a metric over the pairs where it is not NaN; NaN if there is none."""
    values = np.array([result.metrics[name] for result in results])
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def counts(results: Sequence[PairResult]) -> dict[str, Any]:
    """Mean number of matches; numbers of pairs, of failures and of unreadable pairs."""
    return {
        "matches": mean(results, "matches"),
        "pairs": len(results),
        "failures": sum(bool(result.failure) for result in results),
        "unreadable": sum(result.unreadable for result in results),
    }


def auc_by_estimator(
    results: Sequence[PairResult], thresholds: Sequence[float], errors: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """AUC in percent by name in the summary and by threshold.

    Args:
        results: results of the pairs.
        thresholds: px or degrees.
        errors: name in the summary -> name of the error in `PairResult.metrics`.
    """
    return {
        name: by_threshold(thresholds, auc([r.metrics[error] for r in results], thresholds))
        for name, error in errors.items()
    }


def by_threshold(thresholds: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Values by threshold with keys as in JSON: the key of 5.0 is "5"."""
    return {f"{t:g}": value for t, value in zip(thresholds, values, strict=True)}

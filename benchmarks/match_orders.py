"""Metrics of a suite as means over several orders of the matches.

RANSAC draws its samples by the order of the matches, so its AUC varies between orders; see
docs/experiments/accuracy-variance.md. Precision and recall have no order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import cv2
import numpy as np

import featherglue as fg
from featherglue.errors import ENVIRONMENT_FAULTS, FeatherglueError
from featherglue.evaluation.suites import PairResult
from featherglue.matching.fusion import select

Pair = TypeVar("Pair")


def ordered_summary(
    match: Callable[[Pair], tuple[Any, fg.MatchResult]],
    suite: Any,
    pairs: Iterable[Pair],
    num_orders: int,
) -> dict[str, Any]:
    """The mean of the summaries of a suite over several orders of the matches of each pair.

    Args:
        match: returns the views of a pair and their matches; called once for each pair. A pair of
            which it cannot read or match the images counts as failed.
        suite: measures the matches.
        pairs: the pairs; their attribute `group`, if there is one, is that of the results.
        num_orders: number of orders: that of `match`, then random ones with fixed seeds.
    """
    results: list[list[PairResult]] = [[] for _ in range(num_orders)]
    for index, pair in enumerate(pairs):
        try:
            views, found = match(pair)
            measured = [suite.measure(views, reordered(found, k)) for k in range(num_orders)]
        except ENVIRONMENT_FAULTS:
            raise
        except (FeatherglueError, cv2.error, np.linalg.LinAlgError) as error:
            measured = [(suite.failed_metrics(), str(error))] * num_orders
        for rows, (metrics, failure) in zip(results, measured, strict=True):
            rows.append(
                PairResult(
                    index=index,
                    name=str(index),
                    group=getattr(pair, "group", ""),
                    metrics=metrics,
                    failure=failure,
                    unreadable=False,
                )
            )
    return mean_summary([suite.summarize(rows) for rows in results])


def reordered(found: fg.MatchResult, seed: int) -> fg.MatchResult:
    """The result with its matches in a random order; seed 0 keeps the order."""
    if seed == 0:
        return found
    order: Any = np.random.default_rng(seed).permutation(len(found.matches))
    return replace(found, matches=select(found.matches, order))


def mean_summary(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The means of the real numbers of summaries, also of nested ones; the rest of the first."""
    means: dict[str, Any] = {}
    for name, value in summaries[0].items():
        values = [one[name] for one in summaries]
        if isinstance(value, Mapping):
            means[name] = mean_summary(values)
        elif isinstance(value, float):
            means[name] = float(np.mean(values))
        else:
            means[name] = value
    return means

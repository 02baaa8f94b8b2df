"""What a suite is, what can be evaluated with it, and what comes out for each pair."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np

from featherglue.errors import EstimationError
from featherglue.geometry.metrics import Array, auc
from featherglue.io.image import Grey
from featherglue.types import Features, MatchResult

Metrics = dict[str, float]


class Pipeline(Protocol):
    """Anything that extracts features and matches them; `featherglue.Session` is one.

    For a name in tables and for a cache it also needs an attribute `description`, a mapping of
    plain values that says what it is: two with the same description must give the same matches.
    """

    def extract(self, image: Grey, /) -> Features:
        """Features of a grey image (H, W) uint8, in its pixels."""
        ...

    def match(self, features0: Features, features1: Features, /) -> MatchResult:
        """Match two sets of features."""
        ...


class ImagePair(Protocol):
    """A pair of images as a suite lists it."""

    @property
    def index(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...


class Views(Protocol):
    """The two images of a task."""

    @property
    def image0(self) -> Grey: ...
    @property
    def image1(self) -> Grey: ...


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """What came out of one pair.

    Attributes:
        index, name, group: of the task.
        numbers: by name; `error` is the one that pairs are ranked by, infinite for a failure.
            Shares lie in [0, 1], errors are px or degrees.
        failure: why the pair failed, or "". unreadable: because an image could not be read.
    """

    index: int
    name: str
    group: str
    metrics: Mapping[str, float]
    failure: str = ""
    unreadable: bool = False


PairT = TypeVar("PairT", bound=ImagePair)
ViewsT = TypeVar("ViewsT", bound=Views)


class Suite(Protocol[PairT, ViewsT]):
    """A way to evaluate. Suites are frozen and can be sent to other processes."""

    name: ClassVar[str]

    def pairs(self) -> list[PairT]:
        """The pairs. Raises PairListError or ImageError where the whole list is unusable."""
        ...

    def views(self, task: PairT) -> ViewsT:
        """Its images. Raises ImageError where one cannot be read."""
        ...

    def measure(self, views: ViewsT, matched: MatchResult) -> tuple[Metrics, str]:
        """The numbers of a pair, and why it failed or ""."""
        ...

    def unreadable(self) -> Metrics:
        """The numbers of a pair of which an image could not be read."""
        ...

    def normalized_errors(self, views: ViewsT, matched: MatchResult) -> Array:
        """How far each match is from the truth, (M,), in thresholds: up to 1 is correct."""
        ...

    def summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        """The numbers of many pairs, as plain values; shares in percent."""
        ...

    def settings(self) -> dict[str, Any]:
        """What else shapes the numbers, as plain values."""
        ...

    def source(self) -> dict[str, str]:
        """The folder and list that the pairs come from."""
        ...


def attempt(estimate: Callable[[], float]) -> tuple[float, str]:
    """An error, or infinity and why there is no estimate."""
    try:
        return estimate(), ""
    except EstimationError as error:
        return float("inf"), str(error)


def percent(results: Sequence[PairResult], name: str) -> float:
    """Mean of a share over pairs, in percent."""
    return 100 * mean(results, name)


def mean(results: Sequence[PairResult], name: str) -> float:
    """Mean over the pairs that have the number: NaN is passed over; NaN if none has."""
    values = np.array([result.metrics[name] for result in results])
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


def counts(results: Sequence[PairResult]) -> dict[str, Any]:
    """Mean number of matches, and how many pairs there are, failed, or could not be read."""
    return {
        "matches": mean(results, "matches"),
        "pairs": len(results),
        "failures": sum(bool(result.failure) for result in results),
        "unreadable": sum(result.unreadable for result in results),
    }


def areas(
    results: Sequence[PairResult], thresholds: Sequence[float], estimates: Mapping[str, str]
) -> dict[str, dict[str, float]]:
    """AUC by threshold, percent, of the errors that each of the figures is made of."""
    return {
        figure: by_threshold(thresholds, auc([r.metrics[error] for r in results], thresholds))
        for figure, error in estimates.items()
    }


def by_threshold(thresholds: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Values by threshold as JSON has them: the key of 5.0 is "5"."""
    return {f"{t:g}": value for t, value in zip(thresholds, values, strict=True)}

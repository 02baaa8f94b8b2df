"""The interfaces of an evaluation: pipelines, suites, and the result of a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from featherglue.geometry.metrics import Array
from featherglue.io.gray import Gray
from featherglue.types import Features, MatchResult

Metrics = dict[str, float]


class Pipeline(Protocol):
    """Anything that extracts features and matches them; `featherglue.Session` is one.

    An attribute `description`, a mapping of plain values, names the pipeline in tables (key
    `name`) and identifies it in caches. Equal descriptions must mean equal matches.
    """

    def extract(self, image: Gray, /) -> Features:
        """Extract features.

        Args:
            image: (H, W) uint8, gray.
        """
        ...

    def match(self, features0: Features, features1: Features, /) -> MatchResult:
        """Match the features of two images."""
        ...


class ImagePair(Protocol):
    """A pair of images of a suite, before the images are read."""

    @property
    def index(self) -> int:
        """Position in the suite, from 0."""
        ...

    @property
    def name(self) -> str:
        """Name in tables, unique in the suite."""
        ...

    @property
    def group(self) -> str:
        """Part of the suite that the pair belongs to, or ""."""
        ...


class Views(Protocol):
    """The images (H, W) uint8 of a pair."""

    @property
    def image0(self) -> Gray: ...
    @property
    def image1(self) -> Gray: ...


@dataclass(frozen=True, kw_only=True)
class PairResult:
    """The metrics of one pair.

    Attributes:
        index: position of the pair in its suite, from 0.
        name: name of the pair.
        group: part of the suite that the pair belongs to, or "".
        metrics: values by name. `error` ranks the pairs; it is infinite for a failed pair. Ratios
            lie in [0, 1]; errors are px or degrees.
        failure: why the pair failed, or "".
        unreadable: whether the pair failed because an image cannot be read.
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
    """Image pairs with a known relation, and metrics. A suite is immutable and can be pickled."""

    name: ClassVar[str]

    def pairs(self) -> list[PairT]:
        """All pairs of the suite.

        Raises:
            PairListError: the list is malformed.
            ImageError: the folder is missing or holds no images.
        """
        ...

    def views(self, pair: PairT) -> ViewsT:
        """Read the images of a pair.

        Raises:
            ImageError: an image cannot be read.
        """
        ...

    def measure(self, views: ViewsT, matched: MatchResult) -> tuple[Metrics, str]:
        """Compute the metrics of a pair; returns them and the reason of a failure, or ""."""
        ...

    def failed_metrics(self) -> Metrics:
        """The metrics of a pair that could not be matched."""
        ...

    def normalized_errors(self, views: ViewsT, matched: MatchResult) -> Array:
        """Error of each match over the threshold, (M,); a match is correct up to 1."""
        ...

    def summarize(self, results: Sequence[PairResult]) -> dict[str, Any]:
        """The metrics over all pairs, as plain values. Ratios are in percent."""
        ...

    def settings(self) -> dict[str, Any]:
        """Every setting that affects the metrics, as plain values."""
        ...

    def source(self) -> dict[str, str]:
        """The folder and the list that the pairs come from."""
        ...

"""Matchers: SuperGlue in a runtime, and nearest neighbors."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import KeypointsWarning, UsageError
from featherglue.matching.assignment import match_scores, nearest_neighbors
from featherglue.matching.extractors import stage_settings
from featherglue.matching.scratch import Scratch
from featherglue.matching.stopwatch import Stopwatch
from featherglue.options import ProcessingConfig
from featherglue.runtime.base import Runtime
from featherglue.types import Features

Float = NDArray[np.float32]
_MUCH_MEMORY = 0.5e9  # bytes that a match takes without a warning
# Peak memory per pair of keypoints by runtime, measured with `fast` and `balanced`.
_BYTES_PER_PAIR = {"native": 13, "sparse": 13}
_BYTES_PER_PAIR_OF_GRAPHS = 27  # their attention computes the scores of all pairs at once


class Matcher(Protocol):
    """Matches two sets of features."""

    @property
    def kind(self) -> str:
        """Name of the matcher, such as "superglue"."""
        ...

    @property
    def runtime(self) -> Runtime | None:
        """Runtime of the network; None without a network."""
        ...

    @property
    def gives_probabilities(self) -> bool:
        """Whether its confidences are probabilities, comparable with a threshold."""
        ...

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]:
        """Indices (M, 2) int64 into both sets, and confidences (M,) float32 in [0, 1]."""
        ...

    def with_settings(self, processing: ProcessingConfig) -> Matcher:
        """The same matcher with other settings."""
        ...

    def with_runtime(self, runtime: Runtime) -> Matcher:
        """The same matcher in another runtime. Without a network: itself."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind and settings that shape its matches, as plain values."""
        ...


@dataclasses.dataclass(frozen=True)
class NetworkMatcher:
    """SuperGlue (Sarlin et al. 2020) in a runtime, with its optimal matching layer.

    Attributes:
        runtime: runs the network.
        processing: settings of the session.
        bin_score: learned score of leaving a keypoint unmatched.
        descriptor_dim: width of the descriptors that the network takes.
        scratch: buffers.
    """

    runtime: Runtime
    processing: ProcessingConfig
    bin_score: float
    descriptor_dim: int
    scratch: Scratch = dataclasses.field(default_factory=Scratch, repr=False, compare=False)
    kind: ClassVar[str] = "superglue"
    gives_probabilities: ClassVar[bool] = True

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]:
        """See `Matcher`."""
        width = features0.descriptors.shape[1]
        if width != self.descriptor_dim:
            raise UsageError(
                f"this model's SuperGlue takes {self.descriptor_dim}-d descriptors, not {width}-d"
            )
        _warn_of_memory(max(len(features0), len(features1)), self.runtime.name)
        with watch.stage("matcher"):
            scores = self.runtime.match(
                matcher_keypoints(features0),
                features0.descriptors,
                matcher_keypoints(features1),
                features1.descriptors,
            )
        with watch.stage("sinkhorn"):
            return match_scores(
                scores,
                self.bin_score,
                self.processing.sinkhorn_iterations,
                self.processing.match_threshold,
                self.runtime.threads,
                self.scratch,
            )

    def with_settings(self, processing: ProcessingConfig) -> NetworkMatcher:
        """See `Matcher`."""
        return dataclasses.replace(self, processing=processing)

    def with_runtime(self, runtime: Runtime) -> NetworkMatcher:
        """See `Matcher`."""
        return dataclasses.replace(self, runtime=runtime)

    def describe(self) -> dict[str, Any]:
        """See `Matcher`."""
        precision = {"bfloat16": True} if self.runtime.bfloat16 else {}
        return {"kind": self.kind} | precision | stage_settings(self.processing, "matching")


@dataclasses.dataclass(frozen=True)
class NearestNeighborMatcher:
    """Mutual nearest neighbors; with Lowe's ratio test unless `ratio` is None."""

    ratio: float | None
    processing: ProcessingConfig
    runtime: ClassVar[None] = None
    kind: ClassVar[str] = "nn"
    gives_probabilities: ClassVar[bool] = False

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]:
        """See `Matcher`."""
        with watch.stage("matcher"):
            return nearest_neighbors(features0.descriptors, features1.descriptors, self.ratio)

    def with_settings(self, processing: ProcessingConfig) -> NearestNeighborMatcher:
        """See `Matcher`."""
        return dataclasses.replace(self, processing=processing)

    def with_runtime(self, runtime: Runtime) -> NearestNeighborMatcher:
        """See `Matcher`."""
        return self

    def describe(self) -> dict[str, Any]:
        """See `Matcher`."""
        shared = stage_settings(self.processing, "matching", shared=True)
        return {"kind": self.kind, "ratio": self.ratio} | shared


def _warn_of_memory(count: int, runtime: str) -> None:
    needed = _BYTES_PER_PAIR.get(runtime, _BYTES_PER_PAIR_OF_GRAPHS) * count**2
    if needed > _MUCH_MEMORY:
        warnings.warn(
            f"matching {count:,} keypoints takes about {needed / 1e9:.1f} GB of memory, because "
            "all pairs are compared; reduce `max_keypoints`, or use `matcher='nn'`",
            KeypointsWarning,
            stacklevel=2,
        )


def matcher_keypoints(features: Features) -> Float:
    """Keypoints as SuperGlue takes them.

    Returns:
        (N, 3) float32: x and y normalized by (k − size/2) / (0.7·max(size)), and the score.
    """
    size = np.asarray(features.image_size, np.float32)
    normalized = (features.keypoints - size / 2) / (0.7 * size.max())
    return np.concatenate((normalized, features.scores[:, None]), 1, dtype=np.float32)

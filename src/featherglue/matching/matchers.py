"""What matches: SuperGlue in a runtime, or nearest neighbours."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.config import ProcessingConfig
from featherglue.errors import UsageError
from featherglue.matching.assignment import mutual_matches, nearest_neighbours, optimal_transport
from featherglue.matching.stopwatch import Stopwatch
from featherglue.runtime.base import Runtime
from featherglue.types import Features

Float = NDArray[np.float32]


class Matcher(Protocol):
    """Two sets of features → indices (M, 2) int64 and scores (M,)."""

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]: ...


@dataclasses.dataclass(frozen=True)
class NetworkMatcher:
    """SuperGlue in a runtime, with the optimal matching layer."""

    runtime: Runtime
    processing: ProcessingConfig
    bin_score: float
    descriptor_dim: int

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]:
        width = features0.descriptors.shape[1]
        if width != self.descriptor_dim:
            raise UsageError(
                f"this model's SuperGlue takes {self.descriptor_dim}-d descriptors, not {width}-d"
            )
        with watch.stage("matcher"):
            scores = self.runtime.match(
                matcher_keypoints(features0),
                features0.descriptors,
                matcher_keypoints(features1),
                features1.descriptors,
            )
        with watch.stage("sinkhorn"):
            iterations = self.processing.sinkhorn_iterations
            assignment = optimal_transport(scores, self.bin_score, iterations)
        with watch.stage("filter"):
            return mutual_matches(assignment, self.processing.match_threshold)


@dataclasses.dataclass(frozen=True)
class NearestNeighbourMatcher:
    """Mutual nearest neighbours, with Lowe's ratio if any."""

    ratio: float | None

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]:
        with watch.stage("matcher"):
            return nearest_neighbours(features0.descriptors, features1.descriptors, self.ratio)


def matcher_keypoints(features: Features) -> Float:
    """(N, 3): x and y normalised as SuperGlue has it, and the score."""
    size = np.asarray(features.image_size, np.float32)
    normalized = (features.keypoints - size / 2) / (0.7 * size.max())
    return np.concatenate((normalized, features.scores[:, None]), 1, dtype=np.float32)

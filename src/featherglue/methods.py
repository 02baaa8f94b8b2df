"""What a session consists of: something that extracts, and something that matches."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.assignment import mutual_matches, nearest_neighbours, optimal_transport
from featherglue.classical import extract_classical
from featherglue.config import ProcessingConfig
from featherglue.decode import decode_features, pad_to_cells
from featherglue.errors import UsageError
from featherglue.image import Grey
from featherglue.runtime.base import Runtime
from featherglue.scratch import Scratch
from featherglue.types import Features

Float = NDArray[np.float32]


class Stopwatch:
    """Milliseconds by stage, summed over calls."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spent = (time.perf_counter() - start) * 1e3
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + spent


class Extractor(Protocol):
    """Grey image (H, W) uint8 → keypoints (N, 2), scores (N,), descriptors (N, D)."""

    def begin(self, image: Grey, watch: Stopwatch) -> Callable[[], tuple[Float, Float, Float]]:
        """Run the network; what is returned does the rest, in whatever thread."""
        ...


class Matcher(Protocol):
    """Two sets of features → indices (M, 2) int64 and scores (M,)."""

    def __call__(
        self, features0: Features, features1: Features, watch: Stopwatch
    ) -> tuple[NDArray[np.int64], Float]: ...


@dataclasses.dataclass(frozen=True)
class NetworkExtractor:
    """SuperPoint in a runtime."""

    runtime: Runtime
    processing: ProcessingConfig
    scratch: Scratch = dataclasses.field(default_factory=Scratch, repr=False, compare=False)

    def begin(self, image: Grey, watch: Stopwatch) -> Callable[[], tuple[Float, Float, Float]]:
        """See `Extractor`."""
        with watch.stage("extractor"):
            scores, descriptors = self.runtime.extract(pad_to_cells(image))

        def decode() -> tuple[Float, Float, Float]:
            with watch.stage("decode"):
                size = (image.shape[1], image.shape[0])
                return decode_features(scores, descriptors, size, self.processing, self.scratch)

        return decode


@dataclasses.dataclass(frozen=True)
class ClassicalExtractor:
    """SIFT or ORB."""

    kind: Literal["sift", "orb"]
    max_keypoints: int

    def begin(self, image: Grey, watch: Stopwatch) -> Callable[[], tuple[Float, Float, Float]]:
        """See `Extractor`; all is done at once."""
        with watch.stage("extractor"):
            found = extract_classical(self.kind, image, self.max_keypoints)
        return lambda: found


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

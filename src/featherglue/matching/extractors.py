"""What extracts: SuperPoint in a runtime, or SIFT and ORB."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.config import ProcessingConfig
from featherglue.io.image import Grey
from featherglue.matching.keypoints import decode_features, pad_to_cells
from featherglue.matching.opencv import extract_classical
from featherglue.matching.scratch import Scratch
from featherglue.matching.stopwatch import Stopwatch
from featherglue.runtime.base import Runtime

Float = NDArray[np.float32]


class Extractor(Protocol):
    """Grey image (H, W) uint8 → keypoints (N, 2), scores (N,), descriptors (N, D)."""

    def begin(self, image: Grey, watch: Stopwatch) -> Callable[[], tuple[Float, Float, Float]]:
        """Run the network; what is returned does the rest, in whatever thread."""
        ...


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

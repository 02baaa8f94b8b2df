"""Extractors: SuperPoint in a runtime, and the classical features of OpenCV."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.keypoints import decode_features, pad_to_cells
from featherglue.matching.opencv import extract_classical
from featherglue.matching.scratch import Scratch
from featherglue.matching.stopwatch import Stopwatch
from featherglue.options import ProcessingConfig, settings
from featherglue.runtime.base import Runtime

Float = NDArray[np.float32]


class Decoded(NamedTuple):
    """Features in the pixels of the image that an extractor was given, strongest first.

    Attributes:
        keypoints: (N, 2) float32 xy. scores: (N,) float32 in [0, 1].
        descriptors: (N, D) float32, L2-normalized.
    """

    keypoints: Float
    scores: Float
    descriptors: Float


class Extractor(Protocol):
    """Finds keypoints and their descriptors in two steps, which may run in different threads."""

    @property
    def kind(self) -> str:
        """Name of the features, such as "superpoint"."""
        ...

    @property
    def runtime(self) -> Runtime | None:
        """Runtime of the network; None without a network."""
        ...

    def run(self, image: Gray, watch: Stopwatch) -> Any:
        """Run the network on a gray image (H, W) uint8. Returns what `decode` needs."""
        ...

    def decode(self, output: Any, size: tuple[int, int], watch: Stopwatch) -> Decoded:
        """Features from the output of `run` on an image of `size` (width, height)."""
        ...

    def with_settings(self, processing: ProcessingConfig) -> Extractor:
        """The same extractor with other settings."""
        ...

    def with_runtime(self, runtime: Runtime) -> Extractor:
        """The same extractor in another runtime. Without a network: itself."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind and settings that shape its features, as plain values."""
        ...


@dataclasses.dataclass(frozen=True)
class NetworkExtractor:
    """SuperPoint (DeTone et al. 2018) in a runtime."""

    runtime: Runtime
    processing: ProcessingConfig
    scratch: Scratch = dataclasses.field(default_factory=Scratch, repr=False, compare=False)
    kind: ClassVar[str] = "superpoint"

    def run(self, image: Gray, watch: Stopwatch) -> tuple[Float, Float]:
        """See `Extractor`."""
        with watch.stage("extractor"):
            return self.runtime.extract(pad_to_cells(image))

    def decode(
        self, output: tuple[Float, Float], size: tuple[int, int], watch: Stopwatch
    ) -> Decoded:
        """See `Extractor`."""
        with watch.stage("decode"):
            return Decoded(*decode_features(*output, size, self.processing, self.scratch))

    def with_settings(self, processing: ProcessingConfig) -> NetworkExtractor:
        """See `Extractor`."""
        return dataclasses.replace(self, processing=processing)

    def with_runtime(self, runtime: Runtime) -> NetworkExtractor:
        """See `Extractor`."""
        return dataclasses.replace(self, runtime=runtime)

    def describe(self) -> dict[str, Any]:
        """See `Extractor`."""
        return {"kind": self.kind} | stage_settings(self.processing, "extraction")


@dataclasses.dataclass(frozen=True)
class ClassicalExtractor:
    """SIFT or ORB."""

    kind: Literal["sift", "orb"]
    processing: ProcessingConfig
    runtime: ClassVar[None] = None

    def run(self, image: Gray, watch: Stopwatch) -> Decoded:
        """See `Extractor`; OpenCV does all the work in this step."""
        with watch.stage("extractor"):
            return Decoded(*extract_classical(self.kind, image, self.processing.max_keypoints))

    def decode(self, output: Decoded, size: tuple[int, int], watch: Stopwatch) -> Decoded:
        """See `Extractor`."""
        return output

    def with_settings(self, processing: ProcessingConfig) -> ClassicalExtractor:
        """See `Extractor`."""
        return dataclasses.replace(self, processing=processing)

    def with_runtime(self, runtime: Runtime) -> ClassicalExtractor:
        """See `Extractor`."""
        return self

    def describe(self) -> dict[str, Any]:
        """See `Extractor`."""
        return {"kind": self.kind} | stage_settings(self.processing, "extraction", shared=True)


def stage_settings(
    processing: ProcessingConfig, stage: str, shared: bool = False
) -> dict[str, Any]:
    """The settings of one stage as plain values.

    Args:
        processing: settings of the session.
        stage: see `options.Setting.stage`.
        shared: only the settings that every method of the stage uses.
    """
    names = [f.name for f in dataclasses.fields(processing)]
    definitions = settings()
    values = {
        name: getattr(processing, name)
        for name in names
        if definitions[name].stage == stage and not (shared and definitions[name].method)
    }
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

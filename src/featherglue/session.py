"""A session: a model, loaded and running. Images → Features → Matches."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.artifact.registry import find_model, portable_name
from featherglue.errors import ArtifactError, ImageError, UsageError
from featherglue.fingerprint import fingerprint
from featherglue.io.image import Image, load_gray, map_points, resize_gray
from featherglue.matching.extractors import (
    ClassicalExtractor,
    Decoded,
    Extractor,
)
from featherglue.matching.feature_matching import match_features
from featherglue.matching.guided import complete, is_guided, is_incomplete
from featherglue.matching.keypoint_mask import apply_mask
from featherglue.matching.matchers import Matcher
from featherglue.matching.methods import (
    check_fit,
    check_no_model,
    make_extractor,
    make_matcher,
    make_nearest_neighbor_matcher,
)
from featherglue.matching.scratch import Scratch
from featherglue.matching.search import Search
from featherglue.matching.search_pipeline import SessionPipeline
from featherglue.matching.stopwatch import Stopwatch
from featherglue.matching.tiles import extract_in_tiles
from featherglue.matching.working_size import working_size
from featherglue.options import (
    Default,
    ProcessingConfig,
    RuntimeName,
    SearchMode,
    SessionOptions,
    checked,
    make_options,
    with_overrides,
)
from featherglue.runtime.base import open_runtime
from featherglue.types import Features, MatchResult

Float = NDArray[np.float32]

_MAX_PIXELS = 8192 * 8192  # larger images need gigabytes in the network


@dataclass(frozen=True, kw_only=True, eq=False)
class RawFeatures:
    """The output of an extractor's network for one image, to be decoded.

    Attributes:
        output: what `Extractor.run` returned, or the decoded features of tiles.
        image: the gray image (H, W) uint8 in its own size.
        working_size: (width, height) at which the network saw it.
    """

    output: Any
    image: NDArray[np.uint8]
    working_size: tuple[int, int]


class Session:
    """Extracts features and matches them. Created by `load`; thread-safe.

    Attributes:
        extractor: finds keypoints and descriptors.
        matcher: matches two sets of features.
        processing: the settings that apply.
        artifact: the loaded model; None where only classical methods run.
        threads: maximum number of threads of the networks; None if the runtime chose.
        search: whether a search over rotation and scale follows; see `SessionOptions`.
    """

    def __init__(
        self,
        extractor: Extractor,
        matcher: Matcher,
        processing: ProcessingConfig,
        artifact: Artifact | None = None,
        threads: int | None = None,
        search: SearchMode = "off",
    ) -> None:
        self.extractor, self.matcher = extractor, matcher
        self.processing, self.artifact = processing, artifact
        self.threads, self.search = threads, search
        self._scratch = Scratch()
        self._search = Search(SessionPipeline(self)) if search != "off" else None

    def __repr__(self) -> str:
        model = self.artifact.name if self.artifact else None
        parts = [repr(model)] if model else []
        parts += [f"{self.extractor.kind}+{self.matcher.kind}"]
        parts += [str(self.runtime)] if self.runtime else []
        return f"Session({', '.join(parts)}, max_keypoints={self.processing.max_keypoints})"

    @property
    def runtime(self) -> RuntimeName | None:
        """Name of the runtime of the networks; None without networks."""
        running = self.extractor.runtime or self.matcher.runtime
        return cast("RuntimeName", running.name) if running else None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the model's name or folder, the options and settings; `load` runs on unpickling.

        Raises:
            UsageError: the networks were not loaded by `load`.
        """
        if self.artifact is None and self.runtime is not None:
            raise UsageError("only a session made by load can be pickled")
        options = make_options(
            runtime=self.runtime or "auto",
            threads=self.threads,
            features=self.extractor.kind,
            matcher=self.matcher.kind,
            search=self.search,
        )
        model = "fast" if self.artifact is None else portable_name(self.artifact.folder)
        weights = self.artifact.fingerprint if self.artifact else ""
        return _load_again, (model, options, self.processing, weights)

    def describe(self) -> dict[str, Any]:
        """Methods, weights and settings that shape the results, as plain values."""
        extractor, matcher = self.extractor.describe(), self.matcher.describe()
        for part, described in ((self.extractor, extractor), (self.matcher, matcher)):
            if part.runtime is not None:
                described["runtime"] = part.runtime.name
                if self.artifact is not None:
                    described["weights"] = self.artifact.fingerprint
        matcher["refine"] = self.processing.refine
        if self.search != "off" or self.matcher.gives_probabilities:
            matcher["guided_matching"] = is_guided(self.processing)
        if self.search != "off":
            matcher["search"] = self.search
        return {"name": self._name(), "extractor": extractor, "matcher": matcher}

    def _name(self) -> str:
        kinds = f"{self.extractor.kind}+{self.matcher.kind}"
        if self.artifact is None:
            return kinds
        name = self.artifact.name or "model"
        return name if kinds == "superpoint+superglue" else f"{name} ({kinds})"

    def fingerprint(self) -> str:
        """Fingerprint of the methods, weights and settings that shape results.

        The runtime, its precision and the name of the model do not count.
        """
        described = self.describe()
        parts = described["extractor"], described["matcher"]
        unused = ("runtime", "bfloat16")
        return fingerprint(*({k: v for k, v in p.items() if k not in unused} for p in parts))

    def with_settings(self, **overrides: Any) -> Session:
        """A session on the same networks with other settings, at no cost.

        Args:
            **overrides: settings by name, see `ProcessingConfig`. A `keypoint_threshold` alone
                applies to all keypoints and resets `high_keypoint_threshold`.

        Raises:
            ConfigError: an unknown setting, or a value out of bounds.
        """
        processing = with_overrides(self.processing, overrides)
        return Session(
            self.extractor.with_settings(processing),
            self.matcher.with_settings(processing),
            processing,
            self.artifact,
            self.threads,
            self.search,
        )

    def with_search(self, search: SearchMode) -> Session:
        """A session on the same networks with another mode of the search, at no cost.

        Args:
            search: see `SessionOptions`.

        Raises:
            ConfigError: an unknown mode.
        """
        return Session(
            self.extractor,
            self.matcher,
            self.processing,
            self.artifact,
            self.threads,
            checked("search", search),
        )

    def with_stored_features(self) -> Session:
        """A session for stored features: a search has no more keypoints than the session."""
        session = self.with_search(self.search)
        if session._search is not None:
            session._search = Search(SessionPipeline(session, is_dense=False))
        return session

    def with_threads(self, threads: int | None) -> Session:
        """A session with the same model and settings and another maximum number of threads.

        It loads the networks again. The threads of PyTorch change for the whole process.

        Raises:
            UsageError: fewer than one thread; networks that were not loaded from an artifact.
            RuntimeUnavailableError: the runtime cannot load the model any more.
        """
        checked("threads", threads)
        extractor, matcher, name = self.extractor, self.matcher, self.runtime
        if name is not None:
            if self.artifact is None:
                raise UsageError("only a session made by load can change its threads")
            running = open_runtime(self.artifact, name, threads)
            extractor, matcher = extractor.with_runtime(running), matcher.with_runtime(running)
        return Session(extractor, matcher, self.processing, self.artifact, threads, self.search)

    def extract(
        self, image: Image, watch: Stopwatch | None = None, mask: Image | None = None
    ) -> Features:
        """Extract the features of one image.

        Args:
            image: a path, or an array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8, uint16 or
                float in [0, 1].
            watch: adds up the time by stage.
            mask: a path, or an array (H, W) of the size of the image; keypoints where it is 0 are
                ignored.

        Returns:
            Features in pixels of the given image, strongest first; none for a blank image.

        Raises:
            ImageError: the image or the mask cannot be read or used.
        """
        watch = watch or Stopwatch()
        if mask is not None:
            gray, limit = load_gray(mask), self.processing.max_keypoints
            return apply_mask(
                self.with_settings(max_keypoints=-1).extract(image, watch), gray, limit
            )
        raw = self.run_extractor(image, watch)
        if self._search is not None and not isinstance(raw.output, Decoded):
            self._search.pipeline.keep(raw)
        return self.decode(raw, watch)

    def run_extractor(self, image: Image, watch: Stopwatch | None = None) -> RawFeatures:
        """The first step of `extract`: read the image and run the network.

        `decode` is the second step. Two threads may run the steps for different images at once.

        Raises:
            ImageError: the image cannot be read or used.
        """
        watch = watch or Stopwatch()
        with watch.stage("read"):
            gray = load_gray(image)
        size = (gray.shape[1], gray.shape[0])
        with watch.stage("resize"):
            small = resize_gray(gray, working_size(size, self.processing))
        reached = (small.shape[1], small.shape[0])
        if self.processing.tile:
            output: Any = extract_in_tiles(self.extractor, small, self.processing, watch)
            return RawFeatures(output=output, image=gray, working_size=reached)
        if small.size > _MAX_PIXELS:
            raise ImageError(
                f"{small.shape[1]}×{small.shape[0]} pixels are too many, the maximum is "
                f"{_MAX_PIXELS // 1_000_000} megapixels: set `resize` to a longest side (1600), or "
                "`tile`"
            )
        output = self.extractor.run(small, watch)
        return RawFeatures(output=output, image=gray, working_size=reached)

    def decode(self, raw: RawFeatures, watch: Stopwatch | None = None) -> Features:
        """The second step of `extract`: features from the output of the network."""
        size = (raw.image.shape[1], raw.image.shape[0])
        decoded = raw.output
        if not isinstance(decoded, Decoded):
            decoded = self.extractor.decode(raw.output, raw.working_size, watch or Stopwatch())
        return Features(
            keypoints=map_points(decoded.keypoints, raw.working_size, size),
            scores=decoded.scores,
            descriptors=decoded.descriptors,
            image_size=size,
            image=raw.image,
        )

    def match(
        self, features0: Features, features1: Features, watch: Stopwatch | None = None
    ) -> MatchResult:
        """Match two sets of features.

        Where both sets keep their image, matches are refined to a fraction of a pixel, and guided
        matching completes a pair with few of them (see `matching.guided`). If the search
        finds better matches (`result.search`), their indices belong to the features of the result.

        Args:
            features0: features of the first image.
            features1: features of the second image.
            watch: adds up the time by stage; the result has its times.

        Raises:
            UsageError: descriptors of different widths, or images in place of features.
        """
        watch = watch or Stopwatch()
        result = match_features(
            self.matcher, self.processing, features0, features1, watch, self._scratch
        )
        if self._search is None:
            return self._completed(result, watch)
        if not (self.search == "always" or self._search.is_needed(result)):
            return result
        with watch.stage("search"):
            found = self._search.improve(result, always=self.search == "always")
        return dataclasses.replace(found, milliseconds=watch.milliseconds)

    def _completed(self, result: MatchResult, watch: Stopwatch) -> MatchResult:
        """The result of guided matching, if the pair needs it and can be refined."""
        images = result.features0.image, result.features1.image
        applies = is_guided(self.processing) and self.matcher.gives_probabilities
        if not applies or images[0] is None or images[1] is None or not is_incomplete(result):
            return result
        with watch.stage("guided"):
            completed = complete(result, self.processing, self._scratch)
        return dataclasses.replace(completed, milliseconds=watch.milliseconds)

    def __call__(self, image0: Image, image1: Image) -> MatchResult:
        """Extract both images and match them. See `extract` and `match`."""
        watch = Stopwatch()
        features0, features1 = self.extract(image0, watch), self.extract(image1, watch)
        return self.match(features0, features1, watch)


def load(
    model: str | os.PathLike[str] = "fast",
    options: SessionOptions | None = None,
    **overrides: Any,
) -> Session:
    """Load a model and make it ready: resolve its name, export stale graphs, open the runtime.

    Args:
        model: name of a shipped model, such as "fast", or the folder of an artifact.
        options: see `SessionOptions`.
        **overrides: fields of `SessionOptions`, which replace those of `options`.

    Raises:
        ArtifactError: no such model, or a damaged one.
        UsageError: an unknown option, a value out of bounds, a setting that has no effect, or
            features that the matcher does not take.
        RuntimeUnavailableError: the runtime is not installed or cannot run this model.
    """
    options = make_options(options, **overrides)
    if options.features != "superpoint" and options.matcher == "nn":
        check_no_model(model, options)
        processing = options.apply(ProcessingConfig())
        return Session(
            ClassicalExtractor(options.features, processing),
            make_nearest_neighbor_matcher(options, processing),
            processing,
            threads=options.threads,
            search=_search_mode(options),
        )
    artifact = load_artifact(find_model(model))
    check_fit(artifact, options)
    running = open_runtime(artifact, options.runtime, options.threads)
    processing = options.apply(artifact.processing)
    return Session(
        make_extractor(options, running, processing),
        make_matcher(options, running, processing, artifact),
        processing,
        artifact,
        options.threads,
        _search_mode(options),
    )


def _search_mode(options: SessionOptions) -> SearchMode:
    """The given mode of the search; by default "auto" with SuperGlue, "off" with others."""
    if isinstance(options.search, Default):
        return "auto" if options.matcher == "superglue" else "off"
    return options.search


def _load_again(
    model: str, options: SessionOptions, processing: ProcessingConfig, weights: str
) -> Session:
    """The session that was pickled. Raises ArtifactError if its model has changed since."""
    session = load(model, options)
    if session.artifact is not None and session.artifact.fingerprint != weights:
        raise ArtifactError(f"{model}: has other weights than when the session was pickled")
    return session.with_settings(**dataclasses.asdict(processing))

"""A session: a model loaded and running. Images → Features → Matches."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact, load_artifact
from featherglue.artifact.registry import find_model
from featherglue.config import ProcessingConfig, to_dict, with_choices
from featherglue.errors import ImageError, UsageError
from featherglue.io.image import Image, load_grey, map_points, resize_grey, target_size
from featherglue.matching.consensus import agreeing
from featherglue.matching.extractors import ClassicalExtractor, Extractor, NetworkExtractor
from featherglue.matching.matchers import Matcher, NearestNeighbourMatcher, NetworkMatcher
from featherglue.matching.scratch import Scratch
from featherglue.matching.stopwatch import Stopwatch
from featherglue.matching.subpixel import refine_matches
from featherglue.runtime.base import Runtime, RuntimeName, check_runtime, open_runtime
from featherglue.types import Features, Matches, MatchResult

Float = NDArray[np.float32]
FeaturesKind = Literal["superpoint", "sift", "orb"]
MatcherKind = Literal["superglue", "nn"]
FEATURES, MATCHERS = ("superpoint", "sift", "orb"), ("superglue", "nn")
# Lowe's ratio test; the learned features and ORB do better with mutual nearest neighbours alone.
RATIOS: dict[FeaturesKind, float | None] = {"superpoint": None, "sift": 0.85, "orb": None}

_MOST_PIXELS = 8192 * 8192  # beyond this the network needs gigabytes


class Session:
    """Extracts and matches. Made by `load`; safe to share between threads for reading.

    Attributes:
        extractor, matcher: what does the work.
        artifact: what was loaded; None where only classical methods run.
        processing: what applies, with the session's overrides.
        threads: that the networks were given; None where the runtime chose.
    """

    def __init__(
        self,
        extractor: Extractor,
        matcher: Matcher,
        processing: ProcessingConfig,
        artifact: Artifact | None = None,
        threads: int | None = None,
    ) -> None:
        self.extractor, self.matcher = extractor, matcher
        self.processing, self.artifact = processing, artifact
        self.threads = threads
        self._scratch = Scratch()

    @property
    def runtime(self) -> RuntimeName | None:
        """What runs the networks; None where there are none."""
        for part in (self.extractor, self.matcher):
            if isinstance(part, (NetworkExtractor, NetworkMatcher)):
                return cast("RuntimeName", part.runtime.name)
        return None

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits of the weights, methods and settings: what shapes results."""
        weights = self.artifact.identity if self.artifact else ""
        parts = [type(self.extractor).__name__, type(self.matcher).__name__, weights]
        parts += [str(getattr(self.extractor, "kind", "")), json.dumps(to_dict(self.processing))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def with_thresholds(
        self,
        *,
        keypoint_threshold: float | None = None,
        high_keypoint_threshold: float | None = None,
        match_threshold: float | None = None,
    ) -> Session:
        """A session on the same networks with other thresholds, at no cost.

        A `keypoint_threshold` alone applies to all keypoints and resets
        `high_keypoint_threshold`.

        Raises:
            ConfigError: a threshold outside of [0, 1].
        """
        given = {
            "keypoint_threshold": keypoint_threshold,
            "high_keypoint_threshold": high_keypoint_threshold,
            "match_threshold": match_threshold,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        processing = with_choices(self.processing, chosen)
        extractor, matcher = self.extractor, self.matcher
        if isinstance(extractor, NetworkExtractor):
            extractor = dataclasses.replace(extractor, processing=processing)
        if isinstance(matcher, NetworkMatcher):
            matcher = dataclasses.replace(matcher, processing=processing)
        return Session(extractor, matcher, processing, self.artifact, self.threads)

    def with_threads(self, threads: int | None) -> Session:
        """A session with the same model and settings on so many threads. It loads the networks
        anew, if there are any; PyTorch's threads change for the whole process.

        Raises:
            UsageError: fewer than one thread; networks that are not of a loaded model.
            RuntimeUnavailableError: the runtime cannot load the model any more.
        """
        check_runtime("auto", threads)
        extractor, matcher, name = self.extractor, self.matcher, self.runtime
        if name is not None:
            if self.artifact is None:
                raise UsageError("only a session that was loaded can change its threads")
            running = open_runtime(self.artifact, name, threads)
            if isinstance(extractor, NetworkExtractor):
                extractor = dataclasses.replace(extractor, runtime=running)
            if isinstance(matcher, NetworkMatcher):
                matcher = dataclasses.replace(matcher, runtime=running)
        return Session(extractor, matcher, self.processing, self.artifact, threads)

    def extract(self, image: Image) -> Features:
        """Features of one image.

        Args:
            image: a path, or an array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, uint8, uint16 or
                float in [0, 1].

        Returns:
            features in the coordinates of the given image, strongest first; none for a blank one.

        Raises:
            ImageError: the image cannot be read or used.
        """
        return self._extract(image, Stopwatch())

    def begin(self, image: Image) -> Callable[[], Features]:
        """The first part of `extract`: the network. Call what it returns for the features.

        The two parts may run in different threads, while other images are worked on.

        Raises:
            ImageError: the image cannot be read or used.
        """
        return self._begin(image, Stopwatch())

    def match(self, features0: Features, features1: Features) -> Matches:
        """Matches of two sets of features, refined where both keep their image and it helps.

        Raises:
            UsageError: descriptors of different widths.
        """
        return self._match(features0, features1, Stopwatch())

    def __call__(self, image0: Image, image1: Image) -> MatchResult:
        """Extract both images and match them. See `extract` and `match`."""
        watch = Stopwatch()
        features0, features1 = self._extract(image0, watch), self._extract(image1, watch)
        return self._result(features0, features1, watch)

    def step(self, features0: Features, image1: Image) -> MatchResult:
        """Extract the next image and match it with features that were kept: a frame of a video."""
        watch = Stopwatch()
        return self._result(features0, self._extract(image1, watch), watch)

    def match_features(self, features0: Features, features1: Features) -> MatchResult:
        """As `match`, with the features and the time by stage in the result."""
        return self._result(features0, features1, Stopwatch())

    def _result(self, features0: Features, features1: Features, watch: Stopwatch) -> MatchResult:
        matches = self._match(features0, features1, watch)
        return MatchResult(
            features0=features0,
            features1=features1,
            matches=matches,
            milliseconds=watch.milliseconds,
        )

    def _extract(self, image: Image, watch: Stopwatch) -> Features:
        return self._begin(image, watch)()

    def _begin(self, image: Image, watch: Stopwatch) -> Callable[[], Features]:
        with watch.stage("read"):
            grey = load_grey(image)
        size = (grey.shape[1], grey.shape[0])
        with watch.stage("resize"):
            small = resize_grey(grey, target_size(size, self.processing.resize))
        if small.size > _MOST_PIXELS:
            raise ImageError(
                f"{small.shape[1]}×{small.shape[0]} pixels are too many to find keypoints in, at "
                f"most {_MOST_PIXELS // 1_000_000} megapixels; shrink the image with resize "
                "(--resize 1600)"
            )
        decode = self.extractor.begin(small, watch)

        def finish() -> Features:
            keypoints, scores, descriptors = decode()
            return Features(
                keypoints=map_points(keypoints, (small.shape[1], small.shape[0]), size),
                scores=scores,
                descriptors=descriptors,
                image_size=size,
                image=grey,
            )

        return finish

    def _match(self, features0: Features, features1: Features, watch: Stopwatch) -> Matches:
        width0, width1 = features0.descriptors.shape[1], features1.descriptors.shape[1]
        if width0 != width1:
            raise UsageError(f"descriptors differ in width: {width0} and {width1}")
        if len(features0) and len(features1):
            indices, scores = self.matcher(features0, features1, watch)
        else:
            indices, scores = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        points0 = features0.keypoints[indices[:, 0]]
        points1 = features1.keypoints[indices[:, 1]]
        maps = None
        sure = self.processing.consensus
        if sure:
            if isinstance(self.matcher, NearestNeighbourMatcher):
                sure = np.inf  # its scores are no probabilities
            with watch.stage("consensus"):
                kept, maps = agreeing(points0, points1, scores, sure)
                indices, scores = indices[kept], scores[kept]
                points0, points1 = points0[kept], points1[kept]
        refined = np.zeros(len(indices), np.bool_)
        image0, image1 = features0.image, features1.image
        if self.processing.refine and image0 is not None and image1 is not None:
            with watch.stage("refine"):
                points1, refined = refine_matches(
                    image0, image1, points0, points1, scratch=self._scratch, maps=maps
                )
        return Matches(
            indices=indices, scores=scores, points0=points0, points1=points1, refined=refined
        )


def load(
    model: str | os.PathLike[str] = "fast",
    *,
    runtime: RuntimeName = "auto",
    threads: int | None = None,
    features: FeaturesKind = "superpoint",
    matcher: MatcherKind = "superglue",
    resize: int | Sequence[int] | None = None,
    max_keypoints: int | None = None,
    keypoint_threshold: float | None = None,
    nms_radius: int | None = None,
    subpixel: bool | None = None,
    sinkhorn_iterations: int | None = None,
    match_threshold: float | None = None,
    consensus: float | None = None,
    refine: bool | None = None,
) -> Session:
    """Load a model and make it ready.

    Args:
        model: a shipped name ("fast") or a folder.
        runtime: "auto", "onnxruntime", "openvino" or "torch".
        threads: that networks may use; None lets the runtime choose.
        features: "superpoint", or "sift" and "orb" of OpenCV.
        matcher: "superglue", or "nn" for mutual nearest neighbours.
        resize … refine: override the model's own; see `config.ProcessingConfig`. A
            `keypoint_threshold` is for all keypoints: what the model asks of many is not asked.

    Raises:
        ArtifactError: no such model, or a damaged one.
        UsageError: an unknown name or a value out of range; a setting that would change nothing;
            features that the matcher was not made for.
        RuntimeUnavailableError: the runtime is missing or cannot run this model.
    """
    if features not in FEATURES:
        raise UsageError(f"no features {features!r}; there are {', '.join(FEATURES)}")
    if matcher not in MATCHERS:
        raise UsageError(f"no matcher {matcher!r}; there are {', '.join(MATCHERS)}")
    check_runtime(runtime, threads)
    needs_model = features == "superpoint" or matcher == "superglue"
    if not needs_model and (os.fspath(model), runtime) != ("fast", "auto"):
        raise UsageError(
            f"{features} with nearest neighbours has no model and no runtime; leave them out"
        )
    artifact = load_artifact(find_model(model)) if needs_model else None
    overrides = {
        "resize": (resize,) if isinstance(resize, int) else resize and tuple(resize),
        "max_keypoints": max_keypoints,
        "keypoint_threshold": keypoint_threshold,
        "nms_radius": nms_radius,
        "subpixel": subpixel,
        "sinkhorn_iterations": sinkhorn_iterations,
        "match_threshold": match_threshold,
        "consensus": consensus,
        "refine": refine,
    }
    chosen = {name: value for name, value in overrides.items() if value is not None}
    _refuse_idle(chosen, features, matcher)
    processing = artifact.processing if artifact else ProcessingConfig()
    processing = with_choices(processing, chosen)
    _check_fit(artifact, features, matcher)
    running = open_runtime(artifact, runtime, threads) if artifact else None
    return Session(
        _make_extractor(features, running, processing),
        _make_matcher(matcher, features, running, processing, artifact),
        processing,
        artifact,
        threads,
    )


# What only the networks look at.
_EXTRACTION = ("keypoint_threshold", "nms_radius", "subpixel")
_ASSIGNMENT = ("sinkhorn_iterations", "match_threshold")


def _refuse_idle(chosen: Iterable[str], features: FeaturesKind, matcher: MatcherKind) -> None:
    """Raise UsageError for a setting that would change nothing."""
    for name in chosen:
        if features != "superpoint" and name in _EXTRACTION:
            raise UsageError(f"{name} is SuperPoint's: {features} does without; leave it out")
        if matcher == "nn" and name in _ASSIGNMENT:
            raise UsageError(f"{name} is SuperGlue's: nearest neighbours do without; leave it out")


def _make_extractor(
    kind: FeaturesKind, running: Runtime | None, processing: ProcessingConfig
) -> Extractor:
    if kind == "superpoint":
        assert running is not None
        return NetworkExtractor(running, processing)
    return ClassicalExtractor(kind, processing.max_keypoints)


def _make_matcher(
    kind: MatcherKind,
    features: FeaturesKind,
    running: Runtime | None,
    processing: ProcessingConfig,
    artifact: Artifact | None,
) -> Matcher:
    if kind == "nn":
        return NearestNeighbourMatcher(RATIOS[features])
    assert running is not None and artifact is not None
    config = artifact.architecture.matcher
    assert config is not None
    bin_score = float(artifact.arrays["matcher.bin_score"])
    return NetworkMatcher(running, processing, bin_score, config.descriptor_dim)


def _check_fit(artifact: Artifact | None, features: FeaturesKind, matcher: MatcherKind) -> None:
    if artifact is None:
        return
    architecture = artifact.architecture
    if features == "superpoint" and architecture.extractor is None:
        raise UsageError(f"{artifact.folder}: this model has no extractor; use --features sift")
    if matcher == "superglue":
        if architecture.matcher is None:
            raise UsageError(f"{artifact.folder}: this model has no matcher; use --matcher nn")
        width = {"sift": 128, "orb": 256}.get(features)
        if width is not None and width != architecture.matcher.descriptor_dim:
            raise UsageError(
                f"this model's SuperGlue takes {architecture.matcher.descriptor_dim}-d "
                f"descriptors, {features} gives {width}-d ones; use --matcher nn"
            )

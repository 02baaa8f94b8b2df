"""Choice of the match threshold of a compressed model.

Pruned and quantized matchers assign lower confidences to true matches. The threshold of the
original model then rejects more of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.compression.calibration import random_view
from featherglue.errors import ConfigError, UsageError
from featherglue.geometry.metrics import homography_match_metrics
from featherglue.io.gray import Gray
from featherglue.io.image import resize_gray
from featherglue.matching.extractors import NetworkExtractor
from featherglue.matching.matchers import NetworkMatcher
from featherglue.models.model import Model
from featherglue.runtime.base import Runtime
from featherglue.runtime.torch_ import TorchRuntime
from featherglue.session import Session
from featherglue.types import Features

Float = NDArray[np.float32]
_STEP = 0.02  # distance between candidate thresholds


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """Choose the match threshold that minimizes the larger of two losses.

    The losses are those of precision and of recall, compared with the model that the recipe
    started from.

    Attributes:
        num_pairs: number of pairs to measure on. A pair is a calibration photograph and a view of
            it by a random homography; photographs are used in turn.
        seed: seed of the homographies.
        min_threshold: smallest candidate.
        max_threshold: largest candidate.

    Raises:
        ConfigError: a value is out of range.
    """

    num_pairs: int = 48
    seed: int = 0
    min_threshold: float = 0.02
    max_threshold: float = 0.6

    def __post_init__(self) -> None:
        if self.num_pairs < 1 or self.seed < 0:
            raise ConfigError("num_pairs must be at least 1 and seed at least 0")
        if not 0 <= self.min_threshold <= self.max_threshold <= 1:
            raise ConfigError("0 <= min_threshold <= max_threshold <= 1 must hold")


class _CachedMatching:
    """A runtime that caches the score matrix of its first match.

    The threshold is applied after the network, which takes most of the time.
    """

    name = "torch"
    bfloat16 = False

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self.threads = runtime, runtime.threads
        self._scores: Float | None = None

    def extract(self, image: Gray) -> tuple[Float, Float]:
        """See `Runtime`."""
        return self._runtime.extract(image)

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        """See `Runtime`. Every call returns the result of the first one."""
        if self._scores is None:
            self._scores = self._runtime.match(keypoints0, descriptors0, keypoints1, descriptors1)
        return self._scores


@dataclass(frozen=True, eq=False)
class _Pair:
    """The features of two views, a session that matches them, and the homography H (3, 3) from
    view 0 to view 1."""

    session: Session
    features: tuple[Features, Features]
    H: NDArray[np.float64]

    def measure(self, threshold: float) -> tuple[float, float]:
        """Return precision and recall in [0, 1] of the matches above a threshold."""
        session = self.session.with_settings(match_threshold=threshold)
        matches = session.match(*self.features).matches
        features0, features1 = self.features
        found = homography_match_metrics(
            features0.keypoints,
            features1.keypoints,
            matches.indices,
            matches.points0,
            matches.points1,
            self.H,
            features0.image_size,
            features1.image_size,
        )
        return found.precision, found.recall


def choose_threshold(
    model: Model,
    parent: Model,
    images: Sequence[Gray],
    size: tuple[int, int] = (640, 480),
    config: ThresholdConfig | None = None,
) -> Model:
    """Return the model with another match threshold; see `ThresholdConfig`.

    Candidates are multiples of 0.02, both bounds and the model's own threshold. Of candidates with
    equal losses the one nearest to the model's own threshold is chosen.

    Args:
        model: the compressed model.
        parent: the original model, which is measured with its own threshold.
        images: photographs, (H, W) gray uint8.
        size: (width, height) in pixels to which the photographs are resized.
        config: candidates and pairs.

    Raises:
        UsageError: there are no images, or the parent finds no matches in them.
        ConfigError: a model lacks a network.
    """
    config = config or ThresholdConfig()
    if not images:
        raise UsageError("choosing a match threshold requires at least one image")
    target = _mean_metrics(
        _extract_pairs(parent, images, size, config), parent.processing.match_threshold
    )
    if not target.any():
        raise UsageError("nothing is matched in the calibration images; use other images")
    pairs = list(_extract_pairs(model, images, size, config))
    own = model.processing.match_threshold

    def loss(threshold: float) -> tuple[float, float]:
        worst = float((target - _mean_metrics(pairs, threshold)).max())
        return round(worst, 4), abs(threshold - own)

    best = min(_candidates(own, config), key=loss)
    return replace(model, processing=replace(model.processing, match_threshold=best))


def _candidates(own: float, config: ThresholdConfig) -> list[float]:
    grid = [round(i * _STEP, 2) for i in range(round(1 / _STEP) + 1)]
    low, high = config.min_threshold, config.max_threshold
    return sorted({low, high} | {t for t in (own, *grid) if low < t < high})


def _mean_metrics(pairs: Iterable[_Pair], threshold: float) -> NDArray[np.float64]:
    """Return the mean precision and the mean recall, (2,)."""
    rows = np.array([pair.measure(threshold) for pair in pairs])
    return np.asarray(rows.mean(0))


def _extract_pairs(
    model: Model, images: Sequence[Gray], size: tuple[int, int], config: ThresholdConfig
) -> Iterator[_Pair]:
    if model.extractor is None or model.matcher is None:
        raise ConfigError("choosing a match threshold requires an extractor and a matcher")
    runtime = TorchRuntime(model.to_artifact(), None)
    bin_score, width = float(model.matcher.bin_score.detach()), model.matcher.config.descriptor_dim
    # Views already have their size; the threshold does not apply to guided matches.
    settings = replace(model.processing, resize=(), guided_matching=False)
    rng = np.random.default_rng(config.seed)
    for i in range(config.num_pairs):
        photo = resize_gray(images[i % len(images)], size)
        H, view = random_view(rng, photo)
        cached = _CachedMatching(runtime)
        matcher = NetworkMatcher(cached, settings, bin_score, width)
        session = Session(NetworkExtractor(cached, settings), matcher, settings)
        yield _Pair(session, (session.extract(photo), session.extract(view)), H)

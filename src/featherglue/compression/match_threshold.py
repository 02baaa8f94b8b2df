"""The match threshold of a compressed model: how sure a matcher is changes with its weights.

Pruned and quantized matchers give true matches lower probabilities, so that the threshold of the
model that they were made from lets fewer of them pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.compression.calibration import Grey, draw_view
from featherglue.errors import ConfigError, UsageError
from featherglue.geometry.metrics import homography_match_metrics
from featherglue.io.image import resize_grey
from featherglue.matching.extractors import NetworkExtractor
from featherglue.matching.matchers import NetworkMatcher
from featherglue.models.model import Model
from featherglue.runtime.base import Runtime
from featherglue.runtime.torch_ import TorchRuntime
from featherglue.session import Session
from featherglue.types import Features

Float = NDArray[np.float32]
_STEP = 0.02  # between the thresholds that are tried


@dataclass(frozen=True, kw_only=True)
class ThresholdConfig:
    """Choose the match threshold anew, so that the larger of two losses is smallest: that of
    precision and that of recall against the model that the recipe began with.

    Attributes:
        pairs: of views to judge by: the photographs for calibration in turn, each with a view of
            it by a homography that is drawn. seed: of those.
        lowest, highest: between which the threshold is sought.
    """

    pairs: int = 48
    seed: int = 0
    lowest: float = 0.02
    highest: float = 0.6

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.seed < 0:
            raise ConfigError("pairs must be at least 1 and seed at least 0")
        if not 0 <= self.lowest <= self.highest <= 1:
            raise ConfigError("0 <= lowest <= highest <= 1 must hold")


class _MatchingOnce:
    """A runtime that keeps the score matrix of the pair that it has matched.

    Another threshold changes nothing before it, and the network takes most of the time.
    """

    name = "torch"

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._scores: Float | None = None

    def extract(self, image: Grey) -> tuple[Float, Float]:
        """See `Runtime`."""
        return self._runtime.extract(image)

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        """See `Runtime`; of the first call, whatever it is asked later."""
        if self._scores is None:
            self._scores = self._runtime.match(keypoints0, descriptors0, keypoints1, descriptors1)
        return self._scores


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two views, extracted, and the session that matches them; H (3, 3) maps the first to the
    second."""

    session: Session
    features: tuple[Features, Features]
    H: NDArray[np.float64]

    def measure(self, threshold: float) -> tuple[float, float]:
        """Precision and recall in [0, 1] of the matches above a threshold."""
        matches = (
            self.session.with_settings(match_threshold=threshold).match(*self.features).matches
        )
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
    images: Sequence[Grey],
    size: tuple[int, int] = (640, 480),
    config: ThresholdConfig | None = None,
) -> Model:
    """The model with another match threshold; see `ThresholdConfig`.

    Multiples of 0.02 are tried, the ends and the model's own. Of thresholds that lose as much the
    one nearest to the model's own is taken.

    Args:
        parent: what it is held to, with its own threshold.
        images: (H, W) grey uint8 each, looked at in `size` (width, height).

    Raises:
        UsageError: no images, or none in which the parent matches anything.
        ConfigError: a model lacks a network.
    """
    config = config or ThresholdConfig()
    if not images:
        raise UsageError("choosing a threshold needs images")
    goal = _means(_extract(parent, images, size, config), parent.processing.match_threshold)
    if not goal.any():
        raise UsageError("nothing is matched in the images for calibration: use others")
    pairs = list(_extract(model, images, size, config))
    own = model.processing.match_threshold

    def loss(threshold: float) -> tuple[float, float]:
        return round(float((goal - _means(pairs, threshold)).max()), 4), abs(threshold - own)

    best = min(_candidates(own, config), key=loss)
    return replace(model, processing=replace(model.processing, match_threshold=best))


def _candidates(own: float, config: ThresholdConfig) -> list[float]:
    grid = [round(i * _STEP, 2) for i in range(round(1 / _STEP) + 1)]
    ends = {config.lowest, config.highest}
    return sorted(ends | {t for t in (own, *grid) if config.lowest < t < config.highest})


def _means(pairs: Iterable[_Pair], threshold: float) -> NDArray[np.float64]:
    """Mean precision and recall."""
    rows = np.array([pair.measure(threshold) for pair in pairs])
    return np.asarray(rows.mean(0))


def _extract(
    model: Model, images: Sequence[Grey], size: tuple[int, int], config: ThresholdConfig
) -> Iterator[_Pair]:
    if model.extractor is None or model.matcher is None:
        raise ConfigError("a match threshold is chosen for an extractor and a matcher together")
    runtime = TorchRuntime(model.to_artifact(), None)
    bin_score, width = float(model.matcher.bin_score.detach()), model.matcher.config.descriptor_dim
    how = replace(model.processing, resize=())  # the views have their size
    rng = np.random.default_rng(config.seed)
    for i in range(config.pairs):
        photo = resize_grey(images[i % len(images)], size)
        H, view = draw_view(rng, photo)
        once = _MatchingOnce(runtime)
        matcher = NetworkMatcher(once, how, bin_score, width)
        session = Session(NetworkExtractor(once, how), matcher, how)
        yield _Pair(session, (session.extract(photo), session.extract(view)), H)

"""The match threshold of a compressed model: how sure a matcher is changes with its weights.

Pruned and quantized matchers give true matches lower probabilities, so that the threshold of the
model that they were made from lets fewer of them pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from featherglue.assignment import mutual_matches, optimal_transport
from featherglue.compression.calibration import Grey, draw_view
from featherglue.config import ProcessingConfig
from featherglue.consensus import agreeing
from featherglue.decode import decode_features, matcher_keypoints
from featherglue.errors import ConfigError, UsageError
from featherglue.image import resize_grey
from featherglue.metrics import homography_match_metrics
from featherglue.models.pair import Model
from featherglue.refine import refine_matches
from featherglue.runtime.torch_ import TorchRuntime

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


@dataclass(frozen=True, eq=False)
class _Matched:
    """A pair of views, matched without a threshold.

    Attributes:
        views: (H, W) uint8 each. H: (3, 3), from the first to the second.
        keypoints0, keypoints1: (N0, 2) and (N1, 2).
        indices: (M, 2), mutual best ones of all probabilities; scores: (M,).
    """

    views: tuple[Grey, Grey]
    H: NDArray[np.float64]
    keypoints0: Float
    keypoints1: Float
    indices: NDArray[np.int64]
    scores: Float

    def measure(self, how: ProcessingConfig) -> tuple[float, float]:
        """Precision and recall in [0, 1] of what a session would give."""
        kept = self.scores > how.match_threshold
        indices, scores = self.indices[kept], self.scores[kept]
        points0, points1 = self.keypoints0[indices[:, 0]], self.keypoints1[indices[:, 1]]
        maps = None
        if how.consensus:
            agreed, maps = agreeing(points0, points1, scores, how.consensus)
            indices, points0, points1 = indices[agreed], points0[agreed], points1[agreed]
        if how.refine:
            points1, _ = refine_matches(*self.views, points0, points1, maps=maps)
        height, width = self.views[0].shape
        size = (width, height)
        found = homography_match_metrics(
            self.keypoints0, self.keypoints1, indices, points0, points1, self.H, size, size
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
        UsageError: no images. ConfigError: a model lacks a network.
    """
    config = config or ThresholdConfig()
    if not images:
        raise UsageError("choosing a threshold needs images")
    goal = _means(list(_match(parent, images, size, config)), parent.processing)
    pairs = list(_match(model, images, size, config))
    own = model.processing.match_threshold

    def loss(threshold: float) -> tuple[float, float]:
        processing = replace(model.processing, match_threshold=threshold)
        larger = float((goal - _means(pairs, processing)).max())
        return round(larger, 4), abs(threshold - own)

    best = min(_candidates(own, config), key=loss)
    return replace(model, processing=replace(model.processing, match_threshold=best))


def _candidates(own: float, config: ThresholdConfig) -> list[float]:
    grid = [round(i * _STEP, 2) for i in range(round(1 / _STEP) + 1)]
    ends = {config.lowest, config.highest}
    return sorted(ends | {t for t in (own, *grid) if config.lowest < t < config.highest})


def _means(pairs: Sequence[_Matched], processing: ProcessingConfig) -> NDArray[np.float64]:
    """Mean precision and recall."""
    rows = np.array([pair.measure(processing) for pair in pairs])
    return np.asarray(rows.mean(0))


def _match(
    model: Model, images: Sequence[Grey], size: tuple[int, int], config: ThresholdConfig
) -> Iterator[_Matched]:
    if model.extractor is None or model.matcher is None:
        raise ConfigError("a match threshold is chosen for an extractor and a matcher together")
    runtime = TorchRuntime(model.to_artifact(), None)
    bin_score, how = float(model.matcher.bin_score.detach()), model.processing
    rng = np.random.default_rng(config.seed)
    for i in range(config.pairs):
        photo = resize_grey(images[i % len(images)], size)
        H, view = draw_view(rng, photo)
        found = [decode_features(*runtime.extract(image), size, how) for image in (photo, view)]
        indices, scores = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
        if all(len(keypoints) for keypoints, _, _ in found):
            sides = [(matcher_keypoints(k, s, size), d) for k, s, d in found]
            matrix = runtime.match(*sides[0], *sides[1])
            assignment = optimal_transport(matrix, bin_score, how.sinkhorn_iterations)
            indices, scores = mutual_matches(assignment, 0.0)
        yield _Matched((photo, view), H, found[0][0], found[1][0], indices, scores)

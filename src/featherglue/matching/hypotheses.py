"""Rotation and ratio of scales of two images, from small versions of them.

A hypothesis is a scale for each image and a number of quarter turns of image 1. Hypotheses are
ranked by mutual nearest neighbors until one is clear: the plain one, then other ratios of scales,
then rotations. The matcher runs on the best few.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from featherglue.io.gray import Gray
from featherglue.matching.search_config import SearchConfig
from featherglue.matching.search_pipeline import SessionPipeline
from featherglue.matching.warped_views import shrink
from featherglue.types import Features, MatchResult

_MIN_COSINE = 0.6  # nearest neighbors below it are no evidence of a match


@dataclass(frozen=True)
class Hypothesis:
    """Scales of both small versions, and number of counter-clockwise quarter turns of image 1."""

    scale0: float
    scale1: float
    turns: int


@dataclass(frozen=True)
class _SmallVersions:
    """Small versions of an image by their scale, and features by scale and quarter turns."""

    original: Gray
    mask: Gray | None
    images: dict[float, Gray] = field(default_factory=dict)
    features: dict[tuple[float, int], Features] = field(default_factory=dict)


class HypothesisRanking:
    """Ranks the hypotheses of image pairs. It keeps the features of the last images."""

    def __init__(self, pipeline: SessionPipeline, config: SearchConfig) -> None:
        self.pipeline, self.config = pipeline, config
        self._lock = threading.Lock()
        self._small: OrderedDict[tuple[int, int], _SmallVersions] = OrderedDict()

    def finalists(
        self, image0: Gray, image1: Gray, mask0: Gray | None = None, mask1: Gray | None = None
    ) -> Sequence[tuple[Hypothesis, MatchResult]]:
        """The hypotheses with the strongest matches on the small versions, best first.

        Args:
            image0, image1: (H, W) uint8.
            mask0, mask1: (H, W) uint8, 0 where keypoints are ignored; None for none.

        Returns:
            At least one hypothesis and its match, in pixels of the small versions.
        """
        scales = self.config.scales
        shrunk = [(1.0, s) for s in scales] + [(s, 1.0) for s in scales if s != 1.0]
        scores: dict[Hypothesis, float] = {}
        for sizes, all_turns in ((shrunk[:1], [0]), (shrunk[1:], [0]), (shrunk, [1, 2, 3])):
            for scale0, scale1 in sizes:
                features0 = self.features(image0, scale0, 0, mask0)
                for turns in all_turns:
                    features1 = self.features(image1, scale1, turns, mask1)
                    scores[Hypothesis(scale0, scale1, turns)] = similarity(features0, features1)
            if max(scores.values()) > self.config.clear_similarity:
                break
        tried: list[tuple[Hypothesis, MatchResult]] = []
        for hypothesis in sorted(scores, key=lambda h: -scores[h])[: self.config.num_finalists]:
            features0 = self.features(image0, hypothesis.scale0, 0, mask0)
            features1 = self.features(image1, hypothesis.scale1, hypothesis.turns, mask1)
            tried.append((hypothesis, self.pipeline.match_small(features0, features1)))
            if tried[-1][1].matches.scores.sum() > self.config.enough_strength:
                break
        return sorted(tried, key=lambda pair: -pair[1].matches.scores.sum())

    def features(self, image: Gray, scale: float, turns: int, mask: Gray | None = None) -> Features:
        """Features of a small version, rotated by quarter turns counter-clockwise."""
        owner = id(image), id(mask)
        with self._lock:
            kept = self._small.setdefault(owner, _SmallVersions(image, mask))
            self._small.move_to_end(owner)
            while len(self._small) > self.config.max_cached:
                self._small.popitem(last=False)
        key = (scale, turns)
        if key not in kept.features:
            if 1.0 not in kept.images:
                kept.images[1.0] = shrink(image, min(1.0, self.config.side / max(image.shape)))
            if scale not in kept.images:
                kept.images[scale] = shrink(kept.images[1.0], scale)
            turned = np.ascontiguousarray(np.rot90(kept.images[scale], turns))
            if mask is None:
                found = self.pipeline.extract_small(turned)
            else:
                size = kept.images[scale].shape[::-1]
                resized = np.asarray(
                    cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST), np.uint8
                )
                allowed = np.ascontiguousarray(np.rot90(resized, turns))
                # What is masked would change the descriptors beside it.
                visible = np.where(allowed > 0, turned, np.uint8(0))
                found = self.pipeline.extract_small(visible, allowed)
            kept.features[key] = replace(found, image=None, mask=None)
        return kept.features[key]


def similarity(features0: Features, features1: Features) -> float:
    """Similarity of two images: sum of (cosine − 0.6)² of mutual nearest neighbors above 0.6."""
    products = features0.descriptors @ features1.descriptors.T
    if not products.size:
        return 0.0
    nearest = products.argmax(1)
    cosines = products[np.arange(len(products)), nearest]
    mutual = cosines == products.max(0)[nearest]
    return float(np.square(np.maximum(cosines[mutual] - _MIN_COSINE, 0)).sum())

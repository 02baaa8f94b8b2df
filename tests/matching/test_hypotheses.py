"""Ranking of rotations and ratios of scales on small versions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.matching.hypotheses import HypothesisRanking, similarity
from featherglue.matching.search_config import SearchConfig
from featherglue.matching.search_pipeline import SessionPipeline
from featherglue.session import load


@pytest.fixture
def ranking() -> HypothesisRanking:
    session = load("fast", threads=1)
    return HypothesisRanking(SessionPipeline(session), SearchConfig(max_cached=2))


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_the_rotation_of_a_copy_is_found(
    turns: int, ranking: HypothesisRanking, photographs: dict[str, np.ndarray]
) -> None:
    image = photographs["coffee"]
    copy = np.ascontiguousarray(np.rot90(image, -turns))
    hypothesis, coarse = ranking.finalists(image, copy)[0]
    assert (hypothesis.turns, hypothesis.scale0, hypothesis.scale1) == (turns, 1.0, 1.0)
    assert len(coarse.matches) > 30


def test_the_ratio_of_scales_is_found(
    ranking: HypothesisRanking, photographs: dict[str, np.ndarray]
) -> None:
    """The copy is a quarter of the image, on a canvas of its size."""
    image = cv2.resize(photographs["coffee"], (480, 320), interpolation=cv2.INTER_AREA)
    small = cv2.resize(image, (120, 80), interpolation=cv2.INTER_AREA)
    canvas = np.full_like(image, 128)
    canvas[120:200, 180:300] = small
    assert ranking.finalists(image, canvas)[0][0].scale0 < 1
    assert ranking.finalists(canvas, image)[0][0].scale1 < 1


def test_features_of_small_versions_are_kept(
    ranking: HypothesisRanking,
    photographs: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extract, sizes = ranking.pipeline.extract_small, []
    monkeypatch.setattr(
        ranking.pipeline, "extract_small", lambda im: (sizes.append(im.shape), extract(im))[1]
    )
    images = [photographs[name] for name in ("coffee", "camera", "astronaut")]
    first = ranking.features(images[0], 0.5, 1)
    assert ranking.features(images[0], 0.5, 1) is first
    assert len(sizes) == 1
    for image in images[1:]:
        ranking.features(image, 1.0, 0)
    again = ranking.features(images[0], 0.5, 1)  # two images are kept, this was the third
    assert again is not first
    np.testing.assert_array_equal(again.descriptors, first.descriptors)


def test_similarity(ranking: HypothesisRanking, photographs: dict[str, np.ndarray]) -> None:
    features = ranking.features(photographs["coffee"], 1.0, 0)
    assert similarity(features, features) == pytest.approx(len(features) * 0.16, rel=0.02)
    blank = ranking.features(np.full((240, 320), 90, np.uint8), 1.0, 0)
    assert similarity(features, blank) == 0.0

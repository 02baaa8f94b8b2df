"""Extraction in tiles: coverage, agreement with the whole image, global selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scenes import texture

from featherglue.errors import ConfigError
from featherglue.matching.extractors import Decoded
from featherglue.matching.tiles import select, tile_spans
from featherglue.options import ProcessingConfig
from featherglue.session import load


@pytest.mark.parametrize("length", [1, 200, 256, 257, 300, 511, 1000, 4032, 8688])
@pytest.mark.parametrize("side", [288, 320, 1024])
def test_cores_cover_an_axis_once(length: int, side: int) -> None:
    spans = list(tile_spans(length, side))
    assert [span.core_start for span in spans] == [0, *(span.core_end for span in spans[:-1])]
    assert spans[-1].core_end == spans[-1].end == length
    for i, span in enumerate(spans):
        assert span.start % 32 == 0
        assert span.end - span.start <= side
        assert i == 0 or span.core_start - span.start >= 96
        assert i == len(spans) - 1 or span.end - span.core_end >= 96


def test_tiles_give_the_keypoints_of_the_whole_image(matching: Path) -> None:
    image = texture(0, (700, 500))
    whole = load(matching, resize=-1, max_keypoints=300).extract(image)
    tiled = load(matching, tile=True, working_size=256, max_keypoints=300).extract(image)
    assert len(tiled) == len(whole) == 300
    np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-5)
    near = np.abs(tiled.keypoints[:, None] - whole.keypoints[None]).max(2).min(1)
    assert np.mean(near < 0.05) > 0.98
    same = load(matching, tile=True, max_keypoints=300).extract(image)  # a single tile
    np.testing.assert_array_equal(same.keypoints, whole.keypoints)


def test_tiles_give_the_descriptors_of_the_whole_image() -> None:
    """Also those of a model whose descriptors see a large part of the image."""
    image = texture(0, (700, 500))
    whole = load("fast", resize=-1, max_keypoints=300).extract(image)
    tiled = load("fast", tile=True, working_size=320, max_keypoints=300).extract(image)
    distances = np.abs(tiled.keypoints[:, None] - whole.keypoints[None]).max(2)
    same = distances.min(1) < 0.05
    assert np.mean(same) > 0.98
    cosines = np.sum(tiled.descriptors * whole.descriptors[distances.argmin(1)], axis=1)
    assert cosines[same].min() > 0.98


def test_spread_keypoints_cover_the_image() -> None:
    random = np.random.default_rng(0)
    points = random.random((4000, 2)).astype(np.float32) * 1000
    scores = np.where(points[:, 0] < 200, 0.9, 0.3).astype(np.float32)
    scores += random.random(4000).astype(np.float32) / 20
    found = Decoded(points, scores, np.zeros((4000, 4), np.float32))
    strongest = select(found, (1000, 1000), ProcessingConfig(max_keypoints=400))
    even = select(found, (1000, 1000), ProcessingConfig(max_keypoints=400, tile=True, spread=True))
    assert len(strongest) == len(even) == 400
    assert (points[strongest, 0] < 200).all()
    counts, *_ = np.histogram2d(*points[even].T, bins=5)
    assert counts.min() >= 5
    assert (np.diff(scores[even]) <= 0).all()
    everything = select(found, (1000, 1000), ProcessingConfig(max_keypoints=-1))
    assert len(everything) == 4000


def test_spread_needs_tiles_and_tiles_need_superpoint() -> None:
    with pytest.raises(ConfigError, match="`spread` has no effect without `tile=True`"):
        load("fast", spread=True)
    with pytest.raises(ConfigError, match="`tile` has no effect with `features='sift'`"):
        load(features="sift", matcher="nn", tile=True)

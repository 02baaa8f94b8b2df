"""Choice of the match threshold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.registry import find_model
from featherglue.compression import match_threshold as threshold
from featherglue.compression.compress import compress
from featherglue.compression.match_threshold import ThresholdConfig, choose_threshold
from featherglue.compression.recipe import Recipe
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.session import load

SIZE = (320, 240)


@pytest.fixture(scope="module")
def fast() -> Model:
    model = Model.load(find_model("fast"))
    return replace(model, processing=replace(model.processing, max_keypoints=256))


@pytest.fixture(scope="module")
def less_confident(fast: Model) -> Model:
    """The same model with a higher score of the dustbin, which lowers all confidences."""
    other = Model.from_artifact(fast.to_artifact())
    assert other.matcher is not None
    with torch.no_grad():
        other.matcher.bin_score += 3
    return other


@pytest.fixture(scope="module")
def photos(photographs: dict[str, np.ndarray]) -> list[np.ndarray]:
    return [cv2.resize(photographs[name], SIZE) for name in ("camera", "astronaut")]


@pytest.mark.slow
def test_lower_confidences_lead_to_a_lower_threshold(
    fast: Model, less_confident: Model, photos: list[np.ndarray]
) -> None:
    config = ThresholdConfig(num_pairs=4, min_threshold=0.02)
    own = fast.processing.match_threshold
    chosen = choose_threshold(less_confident, fast, photos, SIZE, config)
    assert config.min_threshold <= chosen.processing.match_threshold < own / 2
    assert replace(chosen.processing, match_threshold=own) == less_confident.processing
    assert less_confident.processing.match_threshold == own
    again = choose_threshold(less_confident, fast, photos, SIZE, config)
    assert again.processing == chosen.processing
    # The bounds apply. With exchanged models the threshold rises.
    bounded = choose_threshold(
        less_confident, fast, photos, SIZE, replace(config, min_threshold=0.16)
    )
    assert 0.16 <= bounded.processing.match_threshold <= own
    assert (
        choose_threshold(fast, less_confident, photos, SIZE, config).processing.match_threshold
        > own
    )


@pytest.mark.slow
def test_step_compares_with_the_original_model(
    less_confident: Model, fast: Model, photos: list[np.ndarray]
) -> None:
    recipe = Recipe.from_dict(
        {
            "steps": [
                {"step": "prune", "ratio": 0.5, "include": ["matcher.*"]},
                {"step": "threshold", "num_pairs": 3},
            ]
        }
    )
    made = compress(fast, recipe, calibration_images=photos, image_size=SIZE)
    assert made.provenance.recipe[-1]["step"] == "threshold"
    assert made.processing.match_threshold != fast.processing.match_threshold
    first = compress(fast, Recipe(steps=recipe.steps[:1]))
    config = ThresholdConfig(num_pairs=3)
    assert made.processing == choose_threshold(first, fast, photos, SIZE, config).processing


def test_pairs_give_the_matches_of_a_session(
    fast: Model, photos: list[np.ndarray], tmp_path: Path
) -> None:
    """Features and scores are computed once and used for every threshold."""
    fast.save(tmp_path / "fast")
    for pair in threshold._extract_pairs(fast, photos, SIZE, ThresholdConfig(num_pairs=2)):
        found = {}
        for limit in (0.1, 0.5):
            options = {"match_threshold": limit, "search": "off", "guided_matching": False}
            session = load(tmp_path / "fast", runtime="torch", **options)  # type: ignore[arg-type]
            views = [features.image for features in pair.features]
            assert views[0] is not None and views[1] is not None
            matches = session(views[0], views[1]).matches
            again = pair.session.with_settings(match_threshold=limit).match(*pair.features).matches
            np.testing.assert_array_equal(again.indices, matches.indices)
            np.testing.assert_allclose(again.points1, matches.points1, atol=1e-3)
            found[limit] = len(matches)
            assert all(0.3 < share <= 1 for share in pair.measure(limit))
        assert 20 < found[0.5] < found[0.1]


def test_candidates_include_bounds_and_the_own_threshold() -> None:
    def candidates(own: float, low: float, high: float) -> list[float]:
        return threshold._candidates(own, ThresholdConfig(min_threshold=low, max_threshold=high))

    assert candidates(0.2, 0.31, 0.31) == [0.31]
    assert candidates(0.25, 0.2, 0.29) == [0.2, 0.22, 0.24, 0.25, 0.26, 0.28, 0.29]
    assert candidates(0.1, 0.55, 0.6) == [0.55, 0.56, 0.58, 0.6]


def test_invalid_arguments_raise(fast: Model, photos: list[np.ndarray]) -> None:
    step = Recipe(steps=(ThresholdConfig(),))
    with pytest.raises(UsageError, match="requires photographs"):
        compress(fast, step)
    with pytest.raises(UsageError, match="at least one image"):
        choose_threshold(fast, fast, [])
    for part in ({"extractor": None}, {"matcher": None}):
        with pytest.raises(ConfigError, match="an extractor and a matcher"):
            compress(replace(fast, **part), step, calibration_images=photos)
    for wrong in (
        {"num_pairs": 0},
        {"min_threshold": 0.5, "max_threshold": 0.4},
        {"max_threshold": 1.5},
    ):
        with pytest.raises(ConfigError):
            ThresholdConfig(**wrong)


def test_photographs_without_matches_raise(fast: Model) -> None:
    blank = [np.full((240, 320), 90, np.uint8)]
    with pytest.raises(UsageError, match="nothing is matched"):
        choose_threshold(fast, fast, blank, SIZE, ThresholdConfig(num_pairs=1))

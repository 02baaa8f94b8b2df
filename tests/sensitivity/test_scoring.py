"""Scores with cached activations equal those of a complete evaluation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.errors import ConfigError, ImageError, UsageError
from featherglue.evaluation import HomographySuite, SessionOpener, evaluate
from featherglue.models.model import Model
from featherglue.sensitivity.prefix_cache import PrefixCache
from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig, sample_pairs

Array = np.ndarray


@pytest.fixture
def suite(tmp_path: Path, photographs: dict[str, Array], shift_and_turn: Array) -> HomographySuite:
    """Three photographs of 160×120 pixels with one homography."""
    folder = tmp_path / "suite"
    folder.mkdir()
    for name, image in photographs.items():
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(image, (160, 120)))
    H = " ".join(f"{value:.12g}" for value in shift_and_turn.ravel())
    (folder / "list.txt").write_text("".join(f"{name}.png {H}\n" for name in photographs))
    return HomographySuite(folder=folder, pair_file=folder / "list.txt", size=(160, 120))


@pytest.fixture(scope="module")
def model(matching: Path) -> Model:
    return Model.load(matching)


def evaluate_model(model: Model, suite: HomographySuite, folder: Path, refine: bool = False) -> Any:
    model.save(folder)
    options = SessionOpener(
        model=str(folder),
        runtime="torch",
        threads=1,
        refine=refine,
        search="off",
        guided_matching=False,
    )
    summary = evaluate(options, suite).summary
    areas = {f"auc{t}": area for t, area in summary["auc"].items()}
    return areas | {name: summary[name] for name in ("precision", "recall")}


LAYERS = (
    "extractor.conv1a",
    "extractor.conv2b",
    "extractor.convPa",
    "extractor.convDb",
    "matcher.kenc.encoder.0",
    "matcher.gnn.layers.0.attn.merge",
    "matcher.gnn.layers.1.mlp.2",
    "matcher.final_proj",
)
RATIOS = {"matcher.final_proj": 0.97}  # most of this weight is zero already


@pytest.mark.slow
@pytest.mark.parametrize(("cache_bytes", "step"), [(2**30, 1), (300_000, 3), (0, 5)])
def test_scores_equal_those_of_an_evaluation(
    model: Model, suite: HomographySuite, tmp_path: Path, cache_bytes: int, step: int
) -> None:
    scorer = HomographyScorer(model, suite, ScoringConfig(cache_bytes=cache_bytes))
    first = scorer(model)
    assert first["recall"] > 10
    assert first == pytest.approx(evaluate_model(model, suite, tmp_path / "model"), abs=1e-9)
    for layer in LAYERS[::step]:
        changed = prune(model, PruneConfig(ratio=RATIOS.get(layer, 0.6), include=(layer,)))
        expected = evaluate_model(changed, suite, tmp_path / "model")
        assert scorer(changed) == pytest.approx(expected, abs=1e-9), layer
    assert scorer(model) == first


def test_refined_quantized_and_normalized_models(
    model: Model, models: dict[str, Model], suite: HomographySuite, tmp_path: Path
) -> None:
    refined = HomographyScorer(model, suite, ScoringConfig(refine=True))
    expected = evaluate_model(model, suite, tmp_path / "model", refine=True)
    assert refined(model) == pytest.approx(expected, abs=1e-9)
    # The same matches without refinement give the scores of a scorer without refinement.
    unrefined = refined.measure(model)["unrefined"].summary(suite.thresholds)
    assert unrefined == pytest.approx(HomographyScorer(model, suite)(model), abs=1e-9)
    few = HomographyScorer(model, suite, ScoringConfig(max_keypoints=12))
    assert few(model) != HomographyScorer(model, suite)(model)
    with pytest.raises(ConfigError, match="max_keypoints must be at least 1"):
        ScoringConfig(max_keypoints=0)
    scorer = HomographyScorer(model, suite)
    weights = LinearConfig(bits=4, activation_bits=0, correct_bias=False)
    coded = quantize_linear(model, weights)
    assert scorer(coded) == pytest.approx(evaluate_model(coded, suite, tmp_path / "c"), abs=1e-9)
    # Another architecture, with batch normalization in both networks.
    other = models["four-heads"]
    expected = evaluate_model(other, suite, tmp_path / "other")
    assert scorer(other) == pytest.approx(expected, abs=1e-9)
    assert HomographyScorer(other, suite)(other) == pytest.approx(expected, abs=1e-9)


def test_unchanged_layers_do_not_run(
    model: Model, suite: HomographySuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = HomographyScorer(model, suite)
    changed = prune(model, PruneConfig(ratio=0.6, include=("matcher.gnn.layers.1.attn.merge",)))
    assert changed.extractor is not None and changed.matcher is not None

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a cached layer was run")

    for part in (changed.extractor.conv1a, changed.matcher.kenc, changed.matcher.gnn.layers[0]):
        monkeypatch.setattr(part, "forward", refuse)
    scorer(changed)
    changed = prune(model, PruneConfig(ratio=0.6, include=("extractor.conv4a",)))
    assert changed.extractor is not None
    monkeypatch.setattr(changed.extractor.conv3b, "forward", refuse)
    scorer(changed)


def test_first_changed_stage(model: Model, models: dict[str, Model]) -> None:
    cache = PrefixCache(model, 2, 1, 2**20)
    runtime = cache.runtime(model)
    assert (runtime.first_extractor, runtime.first_matcher) == (9, 4)
    assert runtime.same_extractor
    for layer, stages in {
        "extractor.conv1a": (0, 4),
        "extractor.conv4b": (7, 4),
        "extractor.convDa": (8, 4),
        "matcher.kenc.encoder.2": (9, 0),
        "matcher.gnn.layers.1.attn.proj.0": (9, 2),
        "matcher.final_proj": (9, 3),
    }.items():
        changed = cache.runtime(
            prune(model, PruneConfig(ratio=RATIOS.get(layer, 0.6), include=(layer,)))
        )
        assert (changed.first_extractor, changed.first_matcher) == stages, layer
    other = cache.runtime(models["projected"])
    assert (other.first_extractor, other.first_matcher) == (0, 0)


def test_other_processing_settings_extract_again(model: Model, suite: HomographySuite) -> None:
    scorer = HomographyScorer(model, suite)
    few = dataclasses.replace(model.processing, max_keypoints=12)
    assert scorer(dataclasses.replace(model, processing=few)) != scorer(model)


def test_sample_is_determined_by_the_seed(model: Model, suite: HomographySuite) -> None:
    pairs = suite.pairs()
    first, second = (sample_pairs(pairs * 9, 5, 1) for _ in range(2))
    assert [pair.index for pair in first] == [pair.index for pair in second]
    assert sample_pairs(pairs, 3, 0) == pairs == sample_pairs(pairs, 99, 0)
    seen: list[tuple[int, int]] = []
    config = ScoringConfig(num_pairs=2, seed=3)
    scorer = HomographyScorer(model, suite, config, lambda *step: seen.append(step))
    assert len(scorer.views) == 2 and seen == [(0, 2), (1, 2), (2, 2)]
    settings = scorer.settings()
    assert settings["num_pairs"] == 2 and settings["seed"] == 3 and "cache_bytes" not in settings


def test_incomplete_models_and_broken_images_raise(
    model: Model, suite: HomographySuite, write_list: Callable[[Array], Path]
) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ScoringConfig(num_pairs=0)
    with pytest.raises(UsageError, match="this model lacks one"):
        HomographyScorer(dataclasses.replace(model, matcher=None), suite)
    with pytest.raises(UsageError, match="this model lacks one"):
        HomographyScorer(model, suite)(dataclasses.replace(model, extractor=None))
    broken = write_list(np.eye(3))
    (broken.parent / "b.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"b\.png"):
        HomographyScorer(model, HomographySuite(folder=broken.parent, pair_file=broken))


def test_failed_pairs_count_as_zero(model: Model, suite: HomographySuite) -> None:
    never = dataclasses.replace(model.processing, match_threshold=1.0)
    scores = HomographyScorer(model, suite)(dataclasses.replace(model, processing=never))
    assert set(scores.values()) == {0.0}

"""Measurements of the study on tiny models: speed, rounding errors, scan and figures."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from featherglue.artifact.folding import fold_batch_norm
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.errors import UsageError
from featherglue.evaluation import HomographySuite
from featherglue.models.model import Model
from featherglue.sensitivity.pair_scores import Interval
from featherglue.sensitivity.results import Method, read_scan

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from studies.compression import (  # noqa: E402
    layer_figures,
    parallel_scanning,
    scanning,
    speed,
    timing,
    weight_errors,
)
from studies.compression.grid_figure import grid_figure, variance_figure  # noqa: E402
from studies.compression.speed_figure import speed_figure  # noqa: E402


def test_slow_contenders_are_not_measured_further(matching: Path) -> None:
    settings = speed.SpeedSettings(
        keypoints=(8, 16), runtimes=("onnxruntime",), size=(64, 48), threads=1, repetitions=2
    )
    found = speed.measure_speed({"tiny": matching}, settings)
    rows = {(row["label"], row["part"]): row for row in found["rows"]}
    assert set(rows["tiny", "matcher"]["ms"]) == {"8", "16"}
    assert set(rows["tiny", "extractor"]["ms"]) == {"8"}  # does not depend on the number
    assert all(ms > 0 for row in found["rows"] for ms in row["ms"].values())
    assert len(speed_figure(found).axes) == 2
    impatient = speed.SpeedSettings(
        keypoints=(8, 16), runtimes=(), size=(64, 48), repetitions=1, budget=0.0
    )
    for row in speed.measure_speed({}, impatient)["rows"]:
        assert row["stopped"] == 8 and set(row["ms"]) == {"8"}


def test_turns_that_are_stored_are_not_measured_again(matching: Path) -> None:
    stored: dict[str, timing.Turn] = {}

    def remember(
        name: str, inputs: Mapping[str, Any], measure: Callable[[], timing.Turn]
    ) -> timing.Turn:
        assert inputs["count"] in (8, 2048)
        return stored[name] if name in stored else stored.setdefault(name, measure())

    settings = speed.SpeedSettings(
        keypoints=(8, 2048), runtimes=("onnxruntime",), size=(64, 48), repetitions=4
    )
    found = speed.measure_speed({"tiny": matching}, settings, remember)
    assert len(stored) == 4 + 2  # fewer turns with many keypoints
    assert found["turns"] == 4 and found["threads"] == 1
    assert found["load"][0] <= found["load"][1]
    for turn in stored.values():
        turn["seconds"] = [1.0 for _ in turn["seconds"]]
    again = speed.measure_speed({"tiny": matching}, settings, remember)
    assert {ms for row in again["rows"] for ms in row["ms"].values()} == {1000.0}


def test_time_depends_on_architecture_and_integers(models: dict[str, Model]) -> None:
    dense = models["four-heads"]
    pruned = prune(dense, PruneConfig(ratio=0.5)).to_artifact()
    known = timing.what_is_timed(dense.to_artifact())
    assert timing.what_is_timed(pruned) == known
    shared = quantize_codebook(dense, CodebookConfig(bits=4)).to_artifact()
    assert timing.what_is_timed(shared) == known
    settings = LinearConfig(activation_bits=0, correct_bias=False)
    rounded = timing.what_is_timed(quantize_linear(dense, settings).to_artifact())
    assert set(rounded["weights"].values()) == {8}


def test_contenders_are_loaded_for_the_first_turn_and_timed_by_their_clock() -> None:
    calls: list[str] = []
    loaded: list[str] = []

    def load() -> timing.Call:
        loaded.append("a")
        return lambda: calls.append("a")

    turns = timing.Turns(lambda: [load, lambda: lambda: time.sleep(0.02)], 1)
    assert calls == []
    first, second = turns(), turns()
    assert calls == ["a"] * 3 and len(loaded) == 1  # one call is not timed
    assert max(first["seconds"]) < 0.02  # a sleep takes no CPU time
    assert timing.medians([{"seconds": [s]} for s in (1.0, 5.0, 2.0)]) == [2.0]
    assert timing.conditions([first, second], 1)["turns"] == 2
    apart = timing.Turns(lambda: [load], 1, together=False)
    apart(), apart()
    assert len(loaded) == 3 and len(calls) == 7  # each is loaded for each turn
    waiting = timing.Turns(lambda: [lambda: lambda: time.sleep(0.02)], 2)
    assert waiting()["seconds"][0] >= 0.02


def test_rounding_errors_follow_the_ranges_of_the_channels() -> None:
    rng = np.random.default_rng(0)
    equal = rng.uniform(-1, 1, (8, 64)).astype(np.float32)
    wide = equal * np.float32([[0.01]] * 7 + [[1]])
    one = weight_errors.relative_error(wide[:7] * 100, 8, per_channel=False)
    assert weight_errors.relative_error(equal, 8, per_channel=False) == pytest.approx(one, rel=0.2)
    rest = weight_errors.quantized(wide, 4, per_channel=False).codes[:7]
    assert not rest.any()  # everything but the widest channel is rounded to zero
    assert weight_errors.quantized(wide, 4, per_channel=True).codes[:7].any()


def test_figure_of_weights_with_and_without_normalization(models: dict[str, Model]) -> None:
    original = models["four-heads"].to_artifact()
    folded = fold_batch_norm(original)
    found = weight_errors.summary(original, folded)
    errors = [row["tensor8"] for row in found["layers"]]
    assert errors == sorted(errors, reverse=True)
    assert len(grid_figure(original, folded, found["chosen"]).axes) == 3 * len(found["chosen"])
    assert variance_figure(original, found["variances"]) is not None
    plain = weight_errors.summary(folded, folded)
    assert plain["variances"] == [] and variance_figure(folded, []) is None


@pytest.fixture
def suite(tmp_path: Path, photographs: dict[str, np.ndarray]) -> HomographySuite:
    """A suite with one pair."""
    cv2.imwrite(str(tmp_path / "a.png"), cv2.resize(photographs["camera"], (128, 96)))
    (tmp_path / "list.txt").write_text("a.png 0.98 -0.08 9 0.07 1.01 -5 1e-5 -5e-5 1\n")
    return HomographySuite(folder=tmp_path, pair_file=tmp_path / "list.txt", size=(128, 96))


@pytest.mark.slow
def test_processes_scan_what_one_process_scans(
    matching: Path, tmp_path: Path, suite: HomographySuite
) -> None:
    model = Model.load(matching)
    levels: dict[Method, tuple[float, ...]] = {"prune": (0.9,), "codebook": (2,)}
    settings = scanning.ScanSettings(num_pairs=1, max_keypoints=32, levels=levels)
    one = scanning.run_scan(model, suite, tmp_path / "one", settings)
    both = parallel_scanning.run_scans(model, suite, tmp_path / "both", settings)
    expected = {row.change: row.scores for row in one.rows}
    for found in (both, read_scan(tmp_path / "both")):
        assert len(found.rows) == len(one.rows)
        for row in found.rows:
            assert row.scores == pytest.approx(expected[row.change], abs=1e-4)
    # A scan in another folder is added, unless it is one of another model.
    scanning.merge_into(tmp_path / "copy", scanning.read_scans(model, [tmp_path / "both"]))
    assert len(read_scan(tmp_path / "copy").rows) == len(one.rows)
    with pytest.raises(UsageError, match="contains no scan"):
        scanning.read_scans(model, [tmp_path / "none"])
    with pytest.raises(UsageError, match="scan of another model"):
        scanning.read_scans(prune(model, PruneConfig(ratio=0.5)), [tmp_path / "both"])


@pytest.mark.slow
def test_scan_continues_and_gives_figures(
    matching: Path, tmp_path: Path, suite: HomographySuite
) -> None:
    model = Model.load(matching)
    levels: dict[Method, tuple[float, ...]] = {"prune": (0.5, 0.9)}
    settings = scanning.ScanSettings(num_pairs=1, max_keypoints=32, levels=levels)
    lines: list[str] = []

    def stop_after(count: int) -> None:
        if len(lines) == count:
            raise KeyboardInterrupt

    def report(line: str) -> None:
        stop_after(6)
        lines.append(line)

    with pytest.raises(KeyboardInterrupt):
        scanning.run_scan(model, suite, tmp_path / "published", settings, report)
    scanning.continue_published(model, suite, tmp_path / "published", tmp_path / "scan", settings)
    known = len(read_scan(tmp_path / "scan").rows)
    assert known == 6
    other = dataclasses.replace(settings, max_keypoints=16)
    scanning.continue_published(model, suite, tmp_path / "published", tmp_path / "other", other)
    assert not (tmp_path / "other").exists()
    found = scanning.run_scan(model, suite, tmp_path / "scan", settings, lines.append)
    assert not scanning.missing(model, found, settings)
    facts = scanning.summary(model, found, settings)
    assert facts["methods"]["prune"]["scored"] == facts["methods"]["prune"]["planned"]
    unrefined = layer_figures.losses(found, "prune", "unrefined")
    assert len(unrefined) == facts["methods"]["prune"]["layers"]
    names = list(unrefined)
    for figure in (
        layer_figures.order_figure(unrefined, names, "prune"),
        layer_figures.sorted_figure(unrefined, unrefined, "prune"),
        layer_figures.curves_figure(unrefined, "prune"),
    ):
        assert len(figure.axes) == 2
    rows = scanning.compare_allocation(model, suite, found, (0.5, 0.99), settings)
    assert {(row["sparsity"], row["allocation"]) for row in rows} == {
        (0.5, "scan"),
        (0.5, "uniform"),
    }


def test_figures_of_a_scan_that_has_not_finished() -> None:
    loss = Interval(4.0, 2.0, 6.0)
    names = [f"extractor.conv{i}" for i in range(6)] + ["matcher.final_proj", "matcher.kenc.0"]
    found = {name: {0.9: loss} for name in names[:-1]}  # the last layer has no scores yet
    found[names[0]] |= {0.5: loss, 0.7: loss}
    assert layer_figures.shown_levels(found, "prune") == [0.9]
    point, glue = layer_figures.order_figure(found, names, "prune").axes
    assert "SuperPoint, 6 layers" in point.get_title()
    assert "SuperGlue, 1 of 2 layers" in glue.get_title()
    assert len(layer_figures.sorted_figure(found, found, "prune").axes) == 2
    (curves,) = layer_figures.curves_figure(found, "prune").axes
    assert curves.get_xlabel() == "ratio of zero weights"
    found |= {name: {0.9: loss, 0.5: loss} for name in names[:3]}
    assert layer_figures.shown_levels(found, "prune") == [0.9]
    found[names[3]] |= {0.5: loss}
    assert layer_figures.shown_levels(found, "prune") == [0.9, 0.5]

"""Sensitivity scans: order, resumption, time limits, files and allocation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.errors import ConfigError, StoredFileWarning, UsageError
from featherglue.models.model import Model
from featherglue.sensitivity.allocation import weight_counts
from featherglue.sensitivity.pair_scores import PairScores
from featherglue.sensitivity.results import UNCHANGED, Change, Row, Scan, read_scan
from featherglue.sensitivity.scan import (
    Measurement,
    ScanConfig,
    apply_change,
    coarse_to_fine,
    plan,
    prepare_model,
    ratios_for,
    scan,
)

FEW = ScanConfig(levels=(0.3, 0.6, 0.9), include=("extractor.conv1*", "matcher.final_proj"))
LAYERS = ["extractor.conv1a", "extractor.conv1b", "matcher.final_proj"]


class ZeroScore:
    """A cheap score, from the ratio of zeros. Counts its calls and can be interrupted."""

    def __init__(self, stop_after: int = 10**6) -> None:
        self.calls, self.stop_after = 0, stop_after

    def __call__(self, model: Model) -> dict[str, float]:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        arrays = model.to_artifact().arrays
        zeros = {name: float((array == 0).mean()) for name, array in arrays.items()}
        lost = sum(zeros[f"{layer}.weight"] * (10 + i) for i, layer in enumerate(LAYERS))
        return {"auc5": 50 - lost, "recall": 90 - 2 * lost}


@pytest.fixture
def model(models: dict[str, Model]) -> Model:
    return models["one-head"]


def without_seconds(found: Scan) -> list[tuple[Change, Mapping[str, float]]]:
    return [(row.change, row.scores) for row in found.rows]


def test_strongest_and_middle_levels_come_first() -> None:
    order = coarse_to_fine([0.1 * i for i in range(1, 10)])
    assert order[0] == pytest.approx(0.9)
    assert sorted(order) == pytest.approx([0.1 * i for i in range(1, 10)])
    for count in range(1, 9):  # gaps differ by a factor of about two at most
        gaps = np.diff([0, *sorted(order[:count])])
        assert gaps.max() <= 2 * gaps.min() + 0.11
    assert coarse_to_fine([5]) == [5]


def test_plan_covers_all_layers_before_the_next_level(model: Model) -> None:
    changes = plan(model.architecture, FEW)
    assert [change.layer for change in changes] == LAYERS * 3
    assert [change.level for change in changes] == [0.9] * 3 + [0.6] * 3 + [0.3] * 3
    bits = plan(model.architecture, ScanConfig(method="codebook", include=("extractor.conv1a",)))
    assert bits[0].level == 2
    everything = plan(model.architecture, ScanConfig())
    assert len(everything) == 10 * len(weight_counts(model.architecture))


def test_scan_scores_every_change(model: Model, tmp_path: Path) -> None:
    score, seen = ZeroScore(), []
    found = scan(model, score, tmp_path, FEW, progress=lambda *step: seen.append(step))
    assert found.rows[0].change == UNCHANGED and score.calls == 10
    assert found.base["auc5"] == pytest.approx(50, abs=1)
    for row in found.rows[1:]:
        pruned = prune(model, PruneConfig(ratio=row.change.level, include=(row.change.layer,)))
        assert row.scores == ZeroScore()(pruned)
    assert [(done, total) for done, total, _ in seen] == [(0, 9), *((i, 9) for i in range(9))]
    assert found.order("prune", "auc5") == ["matcher.final_proj", *LAYERS[1::-1]]
    # The file has the same scores, rounded to four digits.
    again = read_scan(tmp_path)
    for ours, theirs in zip(found.rows, again.rows, strict=True):
        assert ours.change == theirs.change
        assert dict(theirs.scores) == pytest.approx(dict(ours.scores), abs=1e-4)
    assert (tmp_path / "scan.csv").read_text().splitlines()[0] == (
        "layer,method,level,auc5,recall,seconds,checksum"
    )


def test_interrupted_scan_continues(model: Model, tmp_path: Path) -> None:
    whole = scan(model, ZeroScore(), tmp_path / "whole", FEW)
    with pytest.raises(KeyboardInterrupt):
        scan(model, ZeroScore(stop_after=4), tmp_path / "parts", FEW)
    assert len(read_scan(tmp_path / "parts").rows) == 4
    score = ZeroScore()
    scan(model, score, tmp_path / "parts", FEW)
    assert score.calls == 6
    assert without_seconds(read_scan(tmp_path / "parts")) == without_seconds(
        read_scan(tmp_path / "whole")
    )
    assert [row.change for row in whole.rows] == [UNCHANGED, *plan(model.architecture, FEW)]
    # Nothing is left to score. Another method extends the scan.
    assert scan(model, ZeroScore(stop_after=0), tmp_path / "parts", FEW).rows
    more = ScanConfig(method="codebook", levels=(2,), include=("extractor.conv1a",))
    found = scan(model, ZeroScore(), tmp_path / "parts", more)
    assert len(found.rows) == 11
    assert list(found.curves("codebook")) == ["extractor.conv1a"]
    assert list(found.curves("prune")) == LAYERS


def test_adaptive_order_halves_the_steepest_interval(model: Model, tmp_path: Path) -> None:
    tested = LAYERS[0], LAYERS[2]
    levels = (0.1, 0.3, 0.5, 0.7, 0.9)
    config = ScanConfig(levels=levels, include=tested, order="adaptive")

    def score(changed: Model) -> dict[str, float]:
        assert changed.extractor is not None
        weight = changed.extractor.conv1a.weight
        return {"auc5": 50 - 40 * max(0.0, float((weight == 0).float().mean()) - 0.4)}

    found = scan(model, score, tmp_path, config)
    order = [(row.change.layer, row.change.level) for row in found.rows[1:]]
    first, last = tested
    # The score of conv1a falls between 0.5 and 0.9; that of final_proj does not depend on it.
    assert order[:2] == [(first, 0.9), (last, 0.9)]
    assert order[2:5] == [(first, 0.5), (first, 0.7), (first, 0.3)]
    assert order[5] == (last, 0.5)
    assert sorted(order) == sorted((layer, level) for layer in tested for level in levels)
    with pytest.raises(ConfigError, match="even or adaptive"):
        ScanConfig(order="luck")  # type: ignore[arg-type]


def test_pairs_are_stored_and_continued(model: Model, tmp_path: Path) -> None:
    values = np.array([0.5, 0.25])

    def score(changed: Model) -> Measurement:
        scores = PairScores(np.array([1.5, np.inf]), values, values)
        return Measurement(scores.summary(), {"unrefined": scores})

    few = ScanConfig(levels=(0.9,), include=("extractor.conv1*",))
    whole = scan(model, score, tmp_path, few)
    again = scan(model, score, tmp_path, FEW)
    assert len(again.rows) == 10 and len(whole.rows) == 3
    for row in read_scan(tmp_path).rows:
        assert row.pairs["unrefined"].errors.tolist() == [1.5, np.inf]
        assert row.pairs["unrefined"].summary()["recall"] == pytest.approx(37.5)
    (tmp_path / "pairs.npz").unlink()
    assert not any(row.pairs for row in read_scan(tmp_path).rows)


def test_damaged_rows_are_scored_again(model: Model, tmp_path: Path) -> None:
    scan(model, ZeroScore(), tmp_path, FEW)
    table = tmp_path / "scan.csv"
    intact = table.read_text().splitlines()
    damaged = intact.copy()
    damaged[1] = intact[1].replace(",5", ",6", 1)  # the score of the unchanged model
    damaged[4] = intact[4][:-20]
    table.write_text("\n".join(damaged) + "\n")
    with pytest.warns(StoredFileWarning, match=r"scan\.csv: 2 damaged rows"):
        assert len(read_scan(tmp_path).rows) == len(intact) - 3
    score = ZeroScore()
    with pytest.warns(StoredFileWarning, match="2 damaged rows"):
        scan(model, score, tmp_path, FEW)
    assert score.calls == 2
    values = [line.split(",")[:5] for line in intact]
    assert sorted(line.split(",")[:5] for line in table.read_text().splitlines()) == sorted(values)
    # A damaged heading leaves nothing that can be trusted; a table of version 0.1 has no checksums.
    table.write_text("\n".join([intact[0].replace("auc5", "auc6"), *intact[1:]]))
    with pytest.raises(UsageError, match="no row has a correct checksum"):
        read_scan(tmp_path)
    table.write_text("\n".join(line.rpartition(",")[0] for line in intact))
    assert len(read_scan(tmp_path).rows) == len(intact) - 1


def test_scan_stops_after_the_time_limit(model: Model, tmp_path: Path) -> None:
    ticks = itertools.count()
    config = ScanConfig(levels=FEW.levels, include=FEW.include, minutes=4)
    found = scan(model, ZeroScore(), tmp_path, config, clock=lambda: 20.0 * next(ticks))
    # The clock is read three times for each score: 240 s pass with the fourth score.
    assert [row.change.level for row in found.rows] == [0, 0.9, 0.9, 0.9]
    assert scan(model, ZeroScore(), tmp_path, FEW).rows[4].change.level == 0.6


def test_other_or_damaged_scans_raise(model: Model, tmp_path: Path) -> None:
    few = ScanConfig(levels=(0.9,), include=("matcher.final_proj",))
    scan(model, ZeroScore(), tmp_path, few, about={"pairs": 8})
    other = prune(model, PruneConfig(ratio=0.1))
    with pytest.raises(UsageError, match="another model"):
        scan(other, ZeroScore(), tmp_path, few, about={"pairs": 8})
    with pytest.raises(UsageError, match=r"other settings \(pairs was 8\)"):
        scan(model, ZeroScore(), tmp_path, few, about={"pairs": 9})
    (tmp_path / "scan.csv").write_text("layer,method\nx,y\n")
    with pytest.raises(UsageError, match=r"scan\.csv: damaged"):
        scan(model, ZeroScore(), tmp_path, few, about={"pairs": 8})
    (tmp_path / "scan.json").unlink()
    with pytest.raises(UsageError, match="is unknown"):
        read_scan(tmp_path)
    with pytest.raises(UsageError, match="stopped before its first score"):
        _ = read_scan(tmp_path / "nothing").base


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"levels": (1.0,)}, r"a ratio must be in \[0, 1\)"),
        ({"method": "codebook", "levels": (9,)}, "must be 2 to 8"),
        ({"method": "codebook", "levels": (2.5,)}, "must be an integer"),
        ({"method": "linear", "levels": (2,)}, "must be 4 to 8"),
        ({"method": "luck"}, "must be one of prune, codebook, linear"),
        ({"minutes": 0}, "minutes must be positive"),
    ],
)
def test_invalid_settings_raise(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScanConfig(**values)  # type: ignore[arg-type]


def test_unknown_layers_and_quantized_models_raise(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="closest names"):
        scan(model, ZeroScore(), tmp_path, ScanConfig(include=("extractor.conv9",)))
    coded = apply_change(model, Change("matcher.final_proj", "codebook", 4))
    with pytest.raises(UsageError, match="a quantized model cannot be pruned"):
        scan(coded, ZeroScore(), tmp_path, FEW)
    assert not list(tmp_path.iterdir())


def test_models_are_folded_for_linear_scans(models: dict[str, Model]) -> None:
    model = prepare_model(models["four-heads"], "linear")
    assert model.extractor is not None and not model.extractor.config.batch_norm
    assert prepare_model(model, "prune") is model
    coded = apply_change(model, Change("extractor.conv2a", "linear", 4))
    assert list(coded.quantization.tensors) == ["extractor.conv2a.weight"]
    assert not coded.quantization.activations


def test_allocated_ratios_reach_the_sparsity(model: Model, tmp_path: Path) -> None:
    found = scan(model, ZeroScore(), tmp_path, FEW)
    ratios = ratios_for(found, model.architecture, 0.5, "auc5")
    counts = weight_counts(model.architecture)
    zeros = sum(ratios[name] * counts[name] for name in LAYERS)
    assert zeros == pytest.approx(0.5 * sum(counts[name] for name in LAYERS))
    with pytest.raises(UsageError, match="no score 'luck'; the scores are auc5, recall"):
        ratios_for(found, model.architecture, 0.5, "luck")
    pruned = prune(model, PruneConfig(ratio=0, ratios=ratios, include=tuple(LAYERS)))
    assert math.isclose(
        sum((pruned.to_artifact().arrays[f"{n}.weight"] == 0).sum() for n in LAYERS),
        zeros,
        rel_tol=0.02,
    )


def test_layers_are_ordered_by_their_common_levels() -> None:
    def row(layer: str, level: float, score: float) -> Row:
        return Row(Change(layer, "prune", level), {"auc5": score})

    rows = row("a", 0.9, 40), row("b", 0.9, 30), row("b", 0.5, 50)
    found = Scan(rows=(Row(UNCHANGED, {"auc5": 50.0}), *rows))
    assert found.order("prune") == ["b", "a"]
    assert found.costs("prune") == {"a": {0.9: 10.0}, "b": {0.5: 0.0, 0.9: 20.0}}
    assert found.order("linear") == []

"""Sensitivity scans: order, resumption, budgets of time, foreign files, allocation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.errors import ConfigError, UsageError
from featherglue.models.model import Model
from featherglue.sensitivity.allocation import weight_counts
from featherglue.sensitivity.results import UNCHANGED, Change, Row, Scan, read_scan
from featherglue.sensitivity.scan import (
    ScanConfig,
    changed,
    coarse_to_fine,
    plan,
    prepared,
    ratios_for,
    scan,
)

FEW = ScanConfig(levels=(0.3, 0.6, 0.9), include=("extractor.conv1*", "matcher.final_proj"))
LAYERS = ["extractor.conv1a", "extractor.conv1b", "matcher.final_proj"]


class Zeros:
    """Scores a model by its share of zeros, which is cheap; it counts, and can break."""

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


def without_times(found: Scan) -> list[tuple[Change, Mapping[str, float]]]:
    return [(row.change, row.scores) for row in found.rows]


def test_the_hardest_and_the_middle_come_first() -> None:
    order = coarse_to_fine([0.1 * i for i in range(1, 10)])
    assert order[0] == pytest.approx(0.9)
    assert sorted(order) == pytest.approx([0.1 * i for i in range(1, 10)])
    for count in range(1, 9):  # gaps never differ by more than a factor of about two
        gaps = np.diff([0, *sorted(order[:count])])
        assert gaps.max() <= 2 * gaps.min() + 0.11
    assert coarse_to_fine([5]) == [5]


def test_all_layers_get_a_level_before_the_next_one(model: Model) -> None:
    changes = plan(model.architecture, FEW)
    assert [change.layer for change in changes] == LAYERS * 3
    assert [change.level for change in changes] == [0.9] * 3 + [0.6] * 3 + [0.3] * 3
    bits = plan(model.architecture, ScanConfig(what="codebook", include=("extractor.conv1a",)))
    assert bits[0].level == 2
    everything = plan(model.architecture, ScanConfig())
    assert len(everything) == 10 * len(weight_counts(model.architecture))


def test_a_scan_scores_every_change(model: Model, tmp_path: Path) -> None:
    score, seen = Zeros(), []
    found = scan(model, score, tmp_path, FEW, progress=lambda *step: seen.append(step))
    assert found.rows[0].change == UNCHANGED and score.calls == 10
    assert found.base["auc5"] == pytest.approx(50, abs=1)
    for row in found.rows[1:]:
        pruned = prune(model, PruneConfig(ratio=row.change.level, include=(row.change.layer,)))
        assert row.scores == Zeros()(pruned)
    assert [(done, total) for done, total, _ in seen] == [(0, 9), *((i, 9) for i in range(9))]
    assert found.order("prune", "auc5") == ["matcher.final_proj", *LAYERS[1::-1]]
    # A file says the same, to four digits, and can be read by others.
    again = read_scan(tmp_path)
    for ours, theirs in zip(found.rows, again.rows, strict=True):
        assert ours.change == theirs.change
        assert dict(theirs.scores) == pytest.approx(dict(ours.scores), abs=1e-4)
    assert (tmp_path / "scan.csv").read_text().splitlines()[0] == (
        "layer,what,level,auc5,recall,seconds"
    )


def test_an_interrupted_scan_goes_on(model: Model, tmp_path: Path) -> None:
    whole = scan(model, Zeros(), tmp_path / "whole", FEW)
    with pytest.raises(KeyboardInterrupt):
        scan(model, Zeros(stop_after=4), tmp_path / "parts", FEW)
    assert len(read_scan(tmp_path / "parts").rows) == 4
    score = Zeros()
    scan(model, score, tmp_path / "parts", FEW)
    assert score.calls == 6
    assert without_times(read_scan(tmp_path / "parts")) == without_times(
        read_scan(tmp_path / "whole")
    )
    assert [row.change for row in whole.rows] == [UNCHANGED, *plan(model.architecture, FEW)]
    # Nothing is left, and more can be asked for.
    assert scan(model, Zeros(stop_after=0), tmp_path / "parts", FEW).rows
    more = ScanConfig(what="codebook", levels=(2,), include=("extractor.conv1a",))
    found = scan(model, Zeros(), tmp_path / "parts", more)
    assert len(found.rows) == 11
    assert list(found.curves("codebook")) == ["extractor.conv1a"]
    assert list(found.curves("prune")) == LAYERS


def test_time_is_kept(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr("time.monotonic", lambda: 20.0 * next(clock))
    config = ScanConfig(levels=FEW.levels, include=FEW.include, minutes=4)
    found = scan(model, Zeros(), tmp_path, config)
    # Three looks at the clock a score: 240 s are over after the fourth.
    assert [row.change.level for row in found.rows] == [0, 0.9, 0.9, 0.9]
    assert scan(model, Zeros(), tmp_path, FEW).rows[4].change.level == 0.6


def test_what_is_another_scan_is_refused(model: Model, tmp_path: Path) -> None:
    few = ScanConfig(levels=(0.9,), include=("matcher.final_proj",))
    scan(model, Zeros(), tmp_path, few, about={"pairs": 8})
    other = prune(model, PruneConfig(ratio=0.1))
    with pytest.raises(UsageError, match="another model"):
        scan(other, Zeros(), tmp_path, few, about={"pairs": 8})
    with pytest.raises(UsageError, match=r"another way \(pairs was 8\)"):
        scan(model, Zeros(), tmp_path, few, about={"pairs": 9})
    (tmp_path / "scan.csv").write_text("layer,what\nx,y\n")
    with pytest.raises(UsageError, match=r"scan\.csv: damaged"):
        scan(model, Zeros(), tmp_path, few, about={"pairs": 8})
    (tmp_path / "scan.json").unlink()
    with pytest.raises(UsageError, match="nobody can say"):
        read_scan(tmp_path)
    with pytest.raises(UsageError, match="stopped before its first score"):
        _ = read_scan(tmp_path / "nothing").base


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"levels": (1.0,)}, r"a ratio must be in \[0, 1\)"),
        ({"what": "codebook", "levels": (9,)}, "must be 2 to 8"),
        ({"what": "codebook", "levels": (2.5,)}, "whole numbers"),
        ({"what": "linear", "levels": (2,)}, "must be 4 to 8"),
        ({"what": "luck"}, "one of prune, codebook, linear"),
        ({"minutes": 0}, "minutes must be positive"),
    ],
)
def test_impossible_scans(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ScanConfig(**values)  # type: ignore[arg-type]


def test_unknown_layers_and_quantized_models(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="closest names"):
        scan(model, Zeros(), tmp_path, ScanConfig(include=("extractor.conv9",)))
    coded = changed(model, Change("matcher.final_proj", "codebook", 4))
    with pytest.raises(UsageError, match="a quantized model cannot be pruned"):
        scan(coded, Zeros(), tmp_path, FEW)
    assert not list(tmp_path.iterdir())


def test_linear_scans_need_folded_models(models: dict[str, Model]) -> None:
    model = prepared(models["four-heads"], "linear")
    assert model.extractor is not None and not model.extractor.config.batch_norm
    assert prepared(model, "prune") is model
    coded = changed(model, Change("extractor.conv2a", "linear", 4))
    assert list(coded.quantization.tensors) == ["extractor.conv2a.weight"]
    assert not coded.quantization.activations


def test_the_cheapest_ratios_reach_the_share(model: Model, tmp_path: Path) -> None:
    found = scan(model, Zeros(), tmp_path, FEW)
    ratios = ratios_for(found, model.architecture, 0.5, "auc5")
    counts = weight_counts(model.architecture)
    zeros = sum(ratios[name] * counts[name] for name in LAYERS)
    assert zeros == pytest.approx(0.5 * sum(counts[name] for name in LAYERS))
    with pytest.raises(UsageError, match="no score 'luck'; there are auc5, recall"):
        ratios_for(found, model.architecture, 0.5, "luck")
    pruned = prune(model, PruneConfig(ratio=0, ratios=ratios, include=tuple(LAYERS)))
    assert math.isclose(
        sum((pruned.to_artifact().arrays[f"{n}.weight"] == 0).sum() for n in LAYERS),
        zeros,
        rel_tol=0.02,
    )


def test_order_by_what_all_layers_have() -> None:
    def row(layer: str, level: float, score: float) -> Row:
        return Row(Change(layer, "prune", level), {"auc5": score})

    rows = (row("", 0, 50), row("a", 0.9, 40), row("b", 0.9, 30), row("b", 0.5, 50))
    first = Row(UNCHANGED, {"auc5": 50.0})
    found = Scan(rows=(first, *rows[1:]))
    assert found.order("prune") == ["b", "a"]
    assert found.costs("prune") == {"a": {0.9: 10.0}, "b": {0.5: 0.0, 0.9: 20.0}}
    assert found.order("linear") == []

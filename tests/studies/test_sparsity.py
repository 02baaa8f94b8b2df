"""The section on sparsity, and the tables of the how-to page on compression."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from featherglue.artifact.format import load_artifact, save_artifact
from featherglue.config import Provenance
from featherglue.evaluation import HomographySuite
from featherglue.io.json import read_json
from featherglue.io.markdown import wrap_paragraphs
from featherglue.models.model import Model
from studies.compression import shipped, sparsity
from studies.compression.journal import Journal
from studies.compression.sparsity_page import section

ROOT = Path(__file__).parents[2]
PRUNED = "SuperPoint 60 %, SuperGlue 89 %, fine-tuned"
SMALL = "structured, 10 % of the MACs, fine-tuned"


def frame(model: str, runtime: str, threads: int, ms: float) -> dict[str, Any]:
    zeros = {"extractor": 0.6, "matcher": 0.89}
    times = {"ms": ms, "extract": ms / 2, "match": ms / 2}
    return {"model": model, "runtime": runtime, "threads": threads, "zeros": zeros} | times


def test_the_section_compares_models_and_engines() -> None:
    origin = {"origin": {"date": "2026-01-01", "processor": "CPU", "cores": 2}}
    frames = [frame("dense", "native", 1, 500.0), frame("dense", "native", 2, 300.0)]
    frames += []

    def part(rows: list[dict[str, Any]]) -> dict[str, Any]:
        return origin | {"rows": rows, "size": [640, 480]}

    scores = {"auc5": 95.1, "precision": 96.0, "recall": 90.0}
    larger = "structured, 25 % of the MACs, fine-tuned"
    for threads, factor in ((1, 1.0), (2, 0.5)):
        for runtime, ms in (("onnxruntime", 900), ("openvino", 800), ("native", 600)):
            frames.append(frame(PRUNED, runtime, threads, factor * ms))
            frames.append(frame(larger, runtime, threads, factor * ms / 3))
            frames.append(frame(SMALL, runtime, threads, factor * ms / 8))
        frames.append(frame(PRUNED, "sparse", threads, factor * 400))
    layer = {
        "layer": "matcher.gnn.layers.4.attn.proj.0",
        "pruning": "89 %",
        "shape": [256, 256],
        "map": None,
        "positions": 1000,
        "macs": 65_536_000,
        "nonzero": 10_000,
        "bytes": 2_000_000,
        "ms": {"onnxruntime": 2.0, "openvino": 2.5, "torch csr": 3.0, "sparse": 0.5},
    }
    wide = layer | {"pruning": "89 %, 1×8", "nonzero": 20_000}
    limits = {"gflops": 100.0, "gbytes": 5.0}
    text = section(
        {
            "frames-1": part([row for row in frames if row["threads"] == 1]),
            "frames-2": part([row for row in frames if row["threads"] == 2]),
            "layers": origin | {"rows": [layer, layer | {"pruning": "89 %, 4×1"}, wide]},
            "limits": origin | limits,
            "accuracy": origin
            | {
                "pairs": 24,
                "models": dict.fromkeys(
                    (PRUNED, larger, SMALL, "dense", "SuperGlue 2:4", "SuperGlue 89 %"), scores
                ),
                "ratios": [{"pattern": "4x1", "ratio": 0.5, **scores}],
            },
        }
    )
    assert text.count("Measured on CPU, 2 cores, 2026-01-01.") == 4
    for threads, ms in (("1 thread", 400), ("2 threads", 200)):
        assert f"With {threads} `sparse` takes {ms} ms for a frame of the fine-tuned" in text
    assert text.count("2.0 times as fast as the better of ONNX Runtime and OpenVINO") == 2
    assert text.count("1.5 times as fast as `native`") == 2
    assert "25 % of the operations takes 200 ms in its fastest runtime, 2.0 times as fast" in text
    assert "10 % of the operations takes 75 ms in its fastest runtime, 5.3 times as fast" in text
    assert "A matcher needs 60 % zeros, and an extractor 85 %, to gain" in text
    lines = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    patterns = [line[1:3] for line in lines if line[3:6] == ["95.1", "96.0", "90.0"]]
    assert patterns == [
        ["dense", "0"],
        ["2 of 4", "50"],
        ["blocks of 4×1", "50"],
        ["single weights", "89"],
    ]
    assert "400 (200 + 200)" in text and "95.1" in text
    # 20 MFLOP in 0.5 ms; 10 FLOP a byte are 50 GFLOP/s at 5 GB/s; all weights in 2 ms.
    row = next(line for line in text.splitlines() if " 0.02 |" in line)
    assert [cell.strip() for cell in row.split("|")][3:8] == ["0.02", "10", "50", "40", "66"]
    assert "reaches 40 GFLOP/s on average, 40 with blocks of 4×1, and 80 with" in text
    assert "ONNX Runtime reach 66" in text and "4.0 to 4.0 times as fast" in text
    assert (
        "from 85 % on, those of a matcher from 60 % on" in text
        and "1.5 to 1.5 times as long as the dense product of ONNX Runtime" in text
    )


def test_fine_tuned_models_are_those_of_the_dense_model(matching: Path, tmp_path: Path) -> None:
    work, finished = tmp_path / "work", tmp_path / "finished"
    model = load_artifact(matching)
    provenance = replace(model.provenance, recipe=({"step": "superpoint", "seed": 0},))
    dense = save_artifact(tmp_path / "dense", replace(model, provenance=provenance))
    retrained = replace(provenance, recipe=({"step": "superpoint", "seed": 1},))

    def store(folder: Path, provenance: Provenance) -> Path:
        save_artifact(folder, replace(model, provenance=provenance))
        return folder

    direct = replace(provenance, recipe=(), parent=dense.hash)
    in_stages = replace(provenance, recipe=(*provenance.recipe, {"step": "macs"}), parent="before")
    after = store(work / "macs-10" / "after", direct)
    store(finished / "macs-10", direct)
    store(work / "macs-25" / "after", retrained)
    stored = store(finished / "macs-25", in_stages)
    store(finished / "prune-kmeans-huffman", retrained)
    found = sparsity.fine_tuned_models(work, finished, dense)
    assert list(found.values()) == [stored, after]


def test_a_section_without_fine_tuned_models() -> None:
    results = read_json(ROOT / "studies/compression/results.json")["sparsity"]
    parts = {name: dict(results[name]) for name in results}
    for name in ("frames-1", "frames-2"):
        parts[name]["rows"] = [row for row in parts[name]["rows"] if "tuned" not in row["model"]]
    text = section(parts)
    prose = text.partition("|")[0]
    assert "SuperGlue 89 %" in text and "fine-tuned" not in prose and "  " not in prose


def test_the_page_holds_the_stored_section() -> None:
    results = read_json(ROOT / "studies/compression/results.json")["sparsity"]
    page = (ROOT / "docs/compression.md").read_text(encoding="utf-8")
    assert wrap_paragraphs(section(results)) in page


def test_parts_of_another_model_are_measured_again(
    matching: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layers = SimpleNamespace(limits=dict, measure_layers=lambda *args: [])
    monkeypatch.setattr(sparsity, "_layers", lambda: layers)
    monkeypatch.setattr(sparsity, "_in_new_process", lambda function, *args: function(*args))
    monkeypatch.setattr(sparsity, "make_models", lambda *args: {})
    monkeypatch.setattr(sparsity, "measure_frames", lambda *args: [])
    measured = []
    monkeypatch.setattr(sparsity, "measure_accuracy", lambda *args: measured.append(1) or {})
    settings = sparsity.SparsitySettings(num_pairs=1, repetitions=1)
    suite = HomographySuite(folder=tmp_path, pair_file=tmp_path / "list.txt")

    def run(dense: str, tuned: dict[str, Path]) -> int:
        measured.clear()
        journal = Journal(tmp_path / "journal.json")
        model = Model.load(matching)
        sparsity.measure_sparsity(model, tuned, suite, settings, journal, {"dense": dense})
        return len(measured)

    assert [run("one", {}), run("one", {}), run("another", {})] == [1, 0, 1]
    assert [run("another", {"tuned": matching}), run("another", {"tuned": matching})] == [1, 0]


def test_the_page_holds_the_stored_tables(tmp_path: Path) -> None:
    results = read_json(ROOT / "studies/compression/shipped.json")
    page = ROOT / "docs/how-to/compress.md"
    copy = tmp_path / "page.md"
    copy.write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    shipped.write_page(copy, results)
    assert copy.read_text(encoding="utf-8") == page.read_text(encoding="utf-8")


@pytest.mark.parametrize("variant", ["linear-8", "codebook-6", "pruned"])
def test_the_page_shows_the_measured_commands(variant: str) -> None:
    page = (ROOT / "docs/how-to/compress.md").read_text(encoding="utf-8")
    for command in shipped.commands("fast", variant):
        assert command in page

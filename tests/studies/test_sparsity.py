"""The section on sparsity, and the tables of the how-to page on compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from featherglue.io.json import read_json
from studies.compression import shipped, sparsity
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
    frames = []
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
            "frames-1": origin | {"rows": [row for row in frames if row["threads"] == 1]},
            "frames-2": origin | {"rows": [row for row in frames if row["threads"] == 2]},
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
        },
        (640, 480),
    )
    assert text.count("Measured on CPU, 2 cores, 2026-01-01.") == 3  # frames are of one run
    for threads in ("1 thread", "2 threads"):
        assert f"With {threads} it runs the fine-tuned pruned model 2.0 times as fast" in text
    assert text.count("1.5 times as fast as `native`") == 2
    assert text.count("with 10 % of the operations is 5.3 times as fast") == 2  # 400 / (600 / 8)
    assert text.count("with 25 % of the operations is 2.0 times as fast") == 2  # 400 / (600 / 3)
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
    assert "from 85 % on" in text and "1.5 to 1.5 times as long as in ONNX Runtime" in text


def test_fine_tuned_models_are_found_where_they_are_stored(tmp_path: Path) -> None:
    work, finished = tmp_path / "work", tmp_path / "finished"
    after = work / "macs-10" / "after"
    for folder in (after, finished / "macs-10", finished / "macs-25"):
        folder.mkdir(parents=True)
    found = sparsity.fine_tuned_models(work, finished)
    assert list(found.values()) == [finished / "macs-25", after]


def test_a_section_without_fine_tuned_models() -> None:
    results = read_json(ROOT / "studies/compression/results.json")["sparsity"]
    parts = {name: dict(results[name]) for name in results}
    for name in ("frames-1", "frames-2"):
        parts[name]["rows"] = [row for row in parts[name]["rows"] if "tuned" not in row["model"]]
    text = section(parts, (640, 480))
    assert "SuperGlue 89 %" in text and "fine-tuned pruned model" not in text


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

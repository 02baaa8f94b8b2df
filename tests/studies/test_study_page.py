"""The page of the study: numbers, answers and limits of its tables, from the stored results."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
from featherglue.sensitivity.pair_scores import Interval  # noqa: E402
from studies.compression import page_answers  # noqa: E402
from studies.compression.__main__ import parse, reproducing_command  # noqa: E402
from studies.compression.page import render  # noqa: E402
from studies.compression.results_file import keep_latency, upgraded  # noqa: E402

RESULTS = ROOT / "studies" / "compression" / "results.json"
DATA = ["--model", "m", "--images", "i", "--val", "v", "--list", "l"]


@pytest.fixture
def results() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return stored


def test_page_is_that_of_the_stored_results(results: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "compression.md").read_text(encoding="utf-8")
    for row in results["rows"]:
        last = row["before"] if row["after"] is None else row["after"]
        assert f"{last['auc']['5']:.1f}" in page and f"{row['bytes_on_disk'] / 2**20:.2f}" in page
        assert row["origin"]["accuracy"]["date"] in page
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert pictures and all((ROOT / "docs" / path).exists() for path in pictures)


def test_tables_have_at_most_seven_columns(results: dict[str, Any]) -> None:
    tables = [line for line in render(results, {}, "").splitlines() if line.startswith("|")]
    assert len(tables) > 40
    assert max(line.count("|") - 1 for line in tables) <= 7


def test_quick_pages_say_so_first(results: dict[str, Any]) -> None:
    quick = render(results | {"quick": True, "pairs": 16}, {}, "")
    assert quick.splitlines()[2].startswith("> **Quick form.**") and "16 pairs" in quick
    assert "Quick form" not in render(results, {}, "")


def test_answer_names_the_layers_that_lose_for_certain() -> None:
    found = {
        "extractor.conv1a": {0.9: Interval(80.0, 70.0, 90.0)},
        "extractor.conv1b": {0.9: Interval(4.0, -1.0, 9.0)},
        "matcher.final_proj": {0.9: Interval(6.0, 2.0, 9.0), 0.5: Interval(0.0, 0.0, 0.0)},
    }
    refined = {"extractor.conv1a": {0.9: Interval(60.0, 50.0, 70.0)}}
    scan = {"pairs": 32, "keypoints": 256, "methods": {"prune": {"layers": 5}}}
    text = page_answers.which_layers({"unrefined": found, "refined": refined}, scan)
    assert "more than 1 point for certain (95 % interval) with 2 of 3 layers: " in text
    assert "conv1b" not in text and "32 pairs with 256 keypoints" in text
    assert "up to 50 % zeros in one layer, none falls" in text
    assert (
        "With refined positions, 1 layer still loses that much: `extractor.conv1a` (60 points)"
        in text
    )
    assert text.index("extractor.conv1a` (80") < text.index("matcher.final_proj` (6")
    assert "3 of 5 layers at this ratio so far" in text
    assert "has not scored" in page_answers.which_layers({}, {})


def test_answer_for_a_phone_needs_a_file_that_fits(results: dict[str, Any]) -> None:
    dense = results["rows"][0]
    large = dense | {"name": "large", "title": "large", "bytes_on_disk": 2_100_000}
    small = dense | {"name": "small", "title": "small", "bytes_on_disk": 1_900_000}
    assert "None of the recipes does" in page_answers.phone([dense, large])
    text = page_answers.phone([dense, large, small])
    assert "`small.toml`: 1.90 MB" in text and "`large.toml` just misses it: 2.10 MB" in text
    text = page_answers.phone([dense, large, small], results["shipped"])
    assert "`fast` (1.32 MB, 34 times fewer operations" in text


def test_quick_options_replace_only_defaults() -> None:
    options = parse([*DATA, "--quick", "--num-pairs", "8"])
    assert (options.num_pairs, options.minutes, options.num_scan_pairs) == (8, 0.0, 8)
    assert options.page == Path("runs/quick-study/compression.md")
    assert reproducing_command(options).endswith("--quick --num-pairs 8")
    zeros = parse([*DATA, "--quick", "--num-sparsity-repetitions", "5"])  # as without --quick
    assert zeros.num_sparsity_repetitions == 5
    part = ["--only", "kmeans-4", "--steps", "9", "--num-repetitions", "0", "--scan-minutes", "0"]
    command = reproducing_command(parse([*DATA, *part, "--num-pairs", "8"]))
    assert command.endswith("--list VAL/homographies.txt --num-pairs 8")
    whole = parse([*DATA, "--xfeat", "/a/b.onnx"])
    assert whole.num_pairs is None and whole.num_calibration_images == 48
    assert reproducing_command(whole).endswith("--xfeat XFEAT.onnx")


def test_results_of_other_inputs_are_not_kept(tmp_path: Path, results: dict[str, Any]) -> None:
    common = {"dense": results["dense"], "pairs": results["pairs"], "val": results["val"]}
    assert upgraded(RESULTS, common)["rows"] == results["rows"]
    assert upgraded(RESULTS, common | {"pairs": 16}) == {}
    assert upgraded(tmp_path / "none.json", common) == {}
    (tmp_path / "old.json").write_text(json.dumps(results | {"format_version": 1}))
    assert upgraded(tmp_path / "old.json", common) == {}


def test_a_row_keeps_the_latency_of_an_earlier_model_of_the_same_size() -> None:
    earlier = {"ms": {"torch": 9.0}, "macs": 1000, "origin": {"latency": {"date": "2026-01-01"}}}

    def row(macs: int) -> dict[str, Any]:
        made: dict[str, Any] = {"ms": {}, "macs": macs, "origin": {"accuracy": {}}}
        keep_latency(made, earlier)
        return made

    kept = row(1010)
    assert kept["ms"] == earlier["ms"] and kept["origin"]["latency"]["remade"]
    assert row(1100)["ms"] == {} and "latency" not in row(1100)["origin"]
    new = {"ms": {"torch": 1.0}, "macs": 1000, "origin": {}}
    keep_latency(new, earlier)
    keep_latency(row(1000), None)
    assert new["ms"] == {"torch": 1.0} and new["origin"] == {}

"""`featherglue info`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from featherglue.artifact.format import load_artifact
from featherglue.artifact.layers import total_macs
from featherglue.artifact.registry import find_model

Run = Callable[..., tuple[int, str, str]]


def test_facts_as_json(run: Run, matching: Path) -> None:
    code, out, err = run("info", "--model", matching, "--json", "-", "--image-size", "320", "240")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    artifact = load_artifact(matching)
    macs = total_macs(artifact.architecture, (320, 240), 512)
    assert set(facts) == {
        "parameters",
        "nonzero",
        "macs",
        "macs_extractor",
        "macs_matcher",
        "macs_effective",
        "image_size",
        "max_keypoints",
        "bytes_on_disk",
        "files",
        "study_bytes",
        "disk_ratio",
        "study_ratio",
        "integer_layers",
        "float_layers",
        "saturates_without_vnni",
        "hash",
        "architecture",
        "processing",
        "provenance",
        "runtime",
        "kernels",
    }
    assert facts["parameters"] == artifact.num_parameters
    assert facts["nonzero"] == artifact.num_nonzero < facts["parameters"]
    assert facts["study_bytes"] == 4 * facts["nonzero"]
    assert (facts["macs_extractor"], facts["macs_matcher"]) == (macs["extractor"], macs["matcher"])
    assert facts["macs"] == sum(macs.values())
    assert facts["files"]["model.safetensors"] == (matching / "model.safetensors").stat().st_size
    assert facts["bytes_on_disk"] == sum(path.stat().st_size for path in matching.iterdir())
    assert facts["hash"] == artifact.hash
    assert facts["image_size"] == [320, 240]
    assert facts["provenance"]["license"] == "Apache-2.0"


def test_facts_as_a_table(run: Run, matching: Path) -> None:
    code, out, _ = run("info", "--model", matching, "--max-keypoints", "1024")
    assert code == 0
    for fact in (
        f"{load_artifact(matching).num_parameters:,}",
        "640×480, 1024 keypoints",
        "Apache-2.0",
        "random numbers",
    ):
        assert fact in out
    assert "seed 5" not in out
    assert "seed 5" in run("info", "--model", matching, "--verbose")[1]


def test_a_long_recipe_is_short_by_default(run: Run) -> None:
    _, out, _ = run("info", "--model", "fast")
    assert re.search(r"\b\d+ steps, the last are", " ".join(out.replace("│", " ").split()))
    _, verbose, _ = run("info", "--model", "fast", "--verbose")
    num_steps = len(load_artifact(find_model("fast")).provenance.recipe)
    assert f"step {num_steps}" in verbose
    assert len(verbose.splitlines()) > len(out.splitlines()) + num_steps // 2

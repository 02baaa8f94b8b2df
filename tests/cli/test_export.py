"""`featherglue export` of a model that is ready to publish."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from featherglue.artifact.format import load_artifact

Run = Callable[..., tuple[int, str, str]]
GRAPHS = {"extractor.onnx", "matcher.onnx"}


@pytest.mark.parametrize(
    ("options", "steps"),
    [
        (["--fold", "--float16"], ["fold-batch-norm", "store-float16"]),
        (["--float16", "--no-graphs"], ["store-float16"]),
        (["--fold"], ["fold-batch-norm"]),
    ],
)
def test_a_packaged_model(options: list[str], steps: list[str], run: Run, matching: Path) -> None:
    code, out, err = run("export", "--model", matching, "-o", "new", *options, "--json", "-")
    assert (code, err) == (0, "")
    before, made = load_artifact(matching), load_artifact("new")
    assert made.provenance.parent == before.hash
    assert [step["step"] for step in made.provenance.recipe[-len(steps) :]] == steps
    assert made.provenance.recipe[: -len(steps)] == before.provenance.recipe
    assert before.architecture.extractor is not None
    assert made.architecture.extractor is not None
    folded = "--fold" in options
    assert made.architecture.extractor.batch_norm == (
        before.architecture.extractor.batch_norm and not folded
    )
    written = {path.name for path in Path("new").iterdir()}
    assert (written >= GRAPHS) == ("--no-graphs" not in options)
    facts = json.loads(out)
    assert {Path(name).name for name in facts["files"]} == written
    sizes = [path.stat().st_size for path in map(Path, facts["files"])]
    assert facts["bytes"] == sizes
    if "--float16" in options:
        size = (Path("new") / "model.safetensors").stat().st_size
        assert size < 0.7 * (matching / "model.safetensors").stat().st_size


def test_graphs_only(run: Run, matching: Path) -> None:
    code, out, err = run("export", "--model", matching, "-o", "graphs")
    assert (code, err) == (0, "")
    assert {path.name for path in Path("graphs").iterdir()} == GRAPHS
    assert out.count("wrote ") == 2


def test_end_to_end_graphs(run: Run, matching: Path) -> None:
    options = ["--end-to-end", "--size", "64", "48", "--num-keypoints", "20"]
    code, out, err = run("export", "--model", matching, "-o", "graphs", *options)
    assert (code, err) == (0, "")
    names = {"extract.onnx", "match.onnx", "pipeline.onnx"}
    assert {path.name for path in Path("graphs").iterdir()} == names
    assert out.count("wrote ") == 3

"""The compression study on a tiny model: experiments, resumption, page and explanations."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from published_checkpoints import superglue_state, superpoint_state

from featherglue.artifact.format import load_artifact
from featherglue.cli import main as featherglue_main
from featherglue.compression.pruning.fine_grained import PruneConfig
from featherglue.compression.quantization.linear import LinearConfig
from featherglue.compression.recipe import Recipe
from featherglue.compression.step_types import FinetuneConfig
from featherglue.config import ArchitectureConfig, SuperGlueConfig, SuperPointConfig
from featherglue.errors import ConfigError, UsageError
from featherglue.io.toml import read_toml
from featherglue.models.model import Model
from featherglue.sensitivity.allocation import weight_counts
from featherglue.sensitivity.results import UNCHANGED, Change, Row, Scan

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "studies" / "compression" / "recipes"
SETTINGS = """
min_keypoints = 10
max_keypoints = 20

[views]
size = [64, 64]
max_points = 16

[scenes]
size = [64, 64]
max_planes = 1

[loop]
batch_size = 1
workers = 0
bf16 = false
"""
Main = Callable[..., int]


@pytest.fixture
def reproduce(
    tmp_path: Path,
    matching: Path,
    photographs: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
) -> Main:
    """reproduce(*arguments): exit code of the study."""
    monkeypatch.syspath_prepend(ROOT)
    from studies.compression.__main__ import main as study_main

    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("camera", "astronaut"):
        cv2.imwrite(str(photos / f"{name}.png"), cv2.resize(photographs[name], (128, 96)))
    (photos / "list.txt").write_text("camera.png 0.98 -0.08 9 0.07 1.01 -5 1e-5 -5e-5 1\n")
    (tmp_path / "finetune.toml").write_text(SETTINGS)
    given = {
        "model": matching,
        "images": photos,
        "val": photos,
        "list": photos / "list.txt",
        "recipes": RECIPES,
        "finetune": tmp_path / "finetune.toml",
        "work": tmp_path / "work",
        "output": tmp_path / "out.json",
        "page": tmp_path / "docs" / "page.md",
        "threads": 1,
        "num-repetitions": 1,
        "num-calibration-images": 1,
        "scan-minutes": 0,
        "num-explanation-pairs": 0,
        "num-rounds": 0,
        "num-sparsity-repetitions": 0,
        "num-scan-pairs": 1,
        "scan-keypoints": 32,
        "finished": tmp_path / "none",
    }
    defaults = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    defaults += ["--size", "128", "96", "--keypoints", "16", "32", "--shipped", "fast"]

    def main(*arguments: object) -> int:
        return int(study_main([*defaults, *map(str, arguments)]))

    return main


@pytest.mark.slow
def test_experiments_are_run_measured_and_stored(
    reproduce: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce("--only", "prune-kmeans-huffman", "--steps", 1) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    page = (tmp_path / "docs" / "page.md").read_text()
    assert f"{results['rows'][1]['match_threshold']:.2f} *" in page
    assert "## Sensitivity of each layer" not in page
    dense, row = results["rows"]
    assert dense["name"] == "dense" and dense["before"] == dense["after"]
    for state in (row["before"], row["after"]):
        assert set(state["auc"]) == {"5", "10", "25"}
        assert {"precision", "recall"} <= set(state)
    assert row["threshold_chosen"] and 0 < row["match_threshold"] < 1
    assert not dense["threshold_chosen"]
    assert row["nonzero"] < 0.5 * row["parameters"] and row["bytes_on_disk"] > 0
    assert row["study_bytes"] < dense["study_bytes"]
    assert set(row["ms"]) == set(results["shipped"][0]["ms"]) == set(dense["ms"])
    assert set(row["ms"]) == {"torch", "onnxruntime", "openvino"} and min(row["ms"].values()) > 0
    for part in ("accuracy", "tuning", "latency"):
        assert row["origin"][part]["date"] in page
    made = load_artifact(tmp_path / "work" / "prune-kmeans-huffman" / "after")
    steps = [step["step"] for step in made.provenance.recipe]
    twice = ["prune", "prune", "distill", "codebook", "codebook", "distill", "threshold"]
    assert [s for s in steps if s != "test"] == twice
    before = load_artifact(tmp_path / "work" / "prune-kmeans-huffman" / "before")
    assert "threshold" not in [step["step"] for step in before.provenance.recipe]
    assert before.processing.match_threshold == dense["match_threshold"]
    name = "matcher.gnn.layers.0.mlp.0.weight"
    assert not np.array_equal(made.arrays[name], before.arrays[name])
    assert made.storage.tensors[name].scheme == "codebook"
    assert np.mean(made.arrays[name] == 0) > 0.85  # pruning masks were applied
    # No step is repeated, and another experiment is added to the results.
    capsys.readouterr()
    assert reproduce("--only", "linear-8", "--minutes", 0) == 0
    output = capsys.readouterr().out
    assert "dense, evaluated: done before" in output and "not fine-tuned" in output
    assert reproduce("--only", "prune-kmeans-huffman", "--steps", 1) == 0
    assert " …" not in capsys.readouterr().out
    names = [row["name"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]]
    assert names == ["dense", "linear-8", "prune-kmeans-huffman"]
    page = (tmp_path / "docs" / "page.md").read_text()
    for text in ("Table 1a", "Table 2b", "– study", "Not fine-tuned", "--images PHOTOS"):
        assert text in page
    assert str(tmp_path / "photos") not in page
    assert (tmp_path / "docs" / "figures" / "compression-figure-6.png").exists()
    # The rows outlive their models.
    before = json.loads((tmp_path / "out.json").read_text())
    shutil.rmtree(tmp_path / "work" / "linear-8")
    assert reproduce("--keep-rows") == 0
    again = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in again["rows"]] == names
    assert again["rows"][1] == before["rows"][1]
    assert reproduce("--keep-rows", "--num-pairs", 1, "--output", tmp_path / "no.json") == 2


@pytest.mark.slow
def test_models_are_made_again_for_their_times(reproduce: Main, tmp_path: Path) -> None:
    untimed = ("--steps", 1, "--num-repetitions", 0)
    chosen = ("--only", "channel-fine-grained", "--only", "fine-grained-both")
    assert reproduce(*chosen, *untimed) == 0
    shutil.rmtree(tmp_path / "work" / "channel-fine-grained")
    shutil.rmtree(tmp_path / "work" / "fine-grained-both" / "after")
    assert reproduce("--keep-rows", "--num-repetitions", 2) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    for row in results["rows"][1:]:
        assert row["origin"]["latency"]["remade"] and row["origin"]["latency"]["turns"] == 2
        assert set(row["ms"]) == {"torch", "onnxruntime", "openvino"}
    page = " ".join((tmp_path / "docs" / "page.md").read_text().split())
    assert "for the time only: *fine-grained, both*; *channel + fine-grained*." in page
    assert "1 thread (CPU time), medians of 2 turns" in page
    assert re.search(r"\| channel \+ fine-grained \| 1, cpu \| [\d.]+( \*)? \| 1 \|", page)
    assert re.search(r"\| fine-grained, both \| 1, cpu \| [\d.]+( \*)? \| – \|", page)
    # Latencies outlive a run without them.
    assert reproduce("--keep-rows", "--num-repetitions", 0) == 0
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["rows"] == results["rows"] and kept["shipped"] == results["shipped"]
    # A model of another architecture is not timed.
    results["rows"][2]["macs"] *= 2
    (tmp_path / "out.json").write_text(json.dumps(results))
    shutil.rmtree(tmp_path / "work" / "channel-fine-grained")
    assert reproduce("--keep-rows", "--num-repetitions", 1) == 0
    row = json.loads((tmp_path / "out.json").read_text())["rows"][2]
    assert row["origin"]["latency"]["turns"] == 2


@pytest.mark.slow
def test_models_from_other_folders_are_measured(
    reproduce: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = ("--only", "kmeans-6", "--steps", 1)
    assert reproduce(*experiment, "--make-only") == 0
    assert not (tmp_path / "out.json").exists() and not (tmp_path / "docs").exists()
    made = load_artifact(tmp_path / "work" / "kmeans-6" / "after").hash
    (tmp_path / "work").rename(tmp_path / "copy")
    capsys.readouterr()
    assert reproduce(*experiment, "--work", tmp_path / "copy") == 0
    assert "kmeans-6, fine-tuned: done before" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["rows"][1]["after"]
    assert load_artifact(tmp_path / "copy" / "kmeans-6" / "after").hash == made


@pytest.mark.slow
def test_imported_checkpoints_are_studied(reproduce: Main, tmp_path: Path) -> None:
    torch.save(superpoint_state(), tmp_path / "superpoint.pth")
    torch.save(superglue_state(), tmp_path / "superglue.pth")
    outdoor = tmp_path / "outdoor"
    files = (str(tmp_path / "superpoint.pth"), str(tmp_path / "superglue.pth"))
    assert featherglue_main(["import-weights", *files, "-o", str(outdoor)]) == 0
    names = ("fine-grained-both", "linear-8", "kmeans-4")
    chosen = [word for name in names for word in ("--only", name)]
    scan = ("--scan-minutes", 0.1)
    arguments = ("--model", outdoor, *chosen, "--minutes", 0, *scan, "--allocate-sparsities")
    assert reproduce(*arguments) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in results["rows"]] == ["dense", *names]
    dense, pruned, linear, shared = results["rows"]
    assert dense["parameters"] == dense["nonzero"] > 1.3 * pruned["nonzero"]
    assert max(shared["bytes_on_disk"], linear["bytes_on_disk"]) < dense["bytes_on_disk"]
    assert linear["integer_layers"] > 0 and not results["grown"]
    assert results["scan"]["methods"]["prune"]["scored"] > 0
    page = (tmp_path / "docs" / "page.md").read_text()
    assert "with `outdoor`, and finds" in " ".join(page.split())
    assert "## Sensitivity of each layer" in page and "featherglue's model" not in page


@pytest.mark.slow
def test_the_quick_form_runs_every_step(reproduce: Main, tmp_path: Path) -> None:
    short = ("--num-rounds", 1, "--scan-minutes", 0.1)
    short += ("--num-sparsity-repetitions", 1, "--num-sparsity-pairs", 1)
    assert reproduce("--quick", *short) == 0
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["quick"] and len(results["rows"]) > 6
    assert all(row["after"] is None for row in results["rows"][1:])
    assert results["speed"]["rows"] and results["scan"]["methods"]["prune"]["scored"] > 0
    assert all(set(row["ms"]) == {"torch", "onnxruntime", "openvino"} for row in results["rows"])
    assert set(results["sparsity"]) == {"limits", "layers", "frames-1", "frames-2", "accuracy"}
    page = (tmp_path / "docs" / "page.md").read_text()
    assert page.splitlines()[2].startswith("> **Quick form.**")
    assert "SuperGlue 89 %, 4×1" in page
    figures = {path.name for path in (tmp_path / "docs" / "figures").iterdir()}
    for name in ("size", "figure-3", "figure-4", "figure-4-sorted", "figure-6"):
        assert f"compression-{name}.png" in figures


@pytest.mark.slow
def test_recipes_continue_from_finished_models(
    reproduce: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    first = '[[steps]]\nstep = "prune"\nratio = 0.2\n\n[[steps]]\nstep = "finetune"\n\n'
    (recipes / "macs-10.toml").write_text(first)
    linear = '[[steps]]\nstep = "linear"\n\n[[steps]]\nstep = "threshold"\n'
    (recipes / "macs-10-linear-8.toml").write_text(first + linear)
    given = ("--recipes", recipes, "--num-repetitions", 0)
    assert reproduce(*given, "--only", "macs-10", "--steps", 1) == 0
    finished = tmp_path / "finished" / "macs-10"
    shutil.copytree(tmp_path / "work" / "macs-10" / "after", finished)
    for more in ((), ("--work", tmp_path / "other", "--finished", finished.parent)):
        capsys.readouterr()
        assert reproduce(*given, "--only", "macs-10-linear-8", "--minutes", 0, *more) == 0
        assert "not fine-tuned" not in capsys.readouterr().out
        dense, small, row = json.loads((tmp_path / "out.json").read_text())["rows"]
        assert (dense["name"], small["name"]) == ("dense", "macs-10")
        assert row["after"] and row["threshold_chosen"]
        assert row["finetuning"]["taken"] == small["finetuning"]["taken"] == [1]
        assert row["origin"]["tuning"] == small["origin"]["tuning"]
        work = more[1] if more else tmp_path / "work"
        made = load_artifact(Path(work) / "macs-10-linear-8" / "after")
        before = load_artifact(finished)
        steps = [step["step"] for step in made.provenance.recipe]
        assert steps[-4:] == ["prune", "distill", "linear", "threshold"]
        assert made.architecture == before.architecture and made.quantization.tensors
    assert row["finetuning"]["steps"] == 1
    # Without a finished model, there is nothing to continue from.
    given = (*given, "--output", tmp_path / "none.json", "--work", tmp_path / "third")
    assert reproduce(*given, "--only", "macs-10-linear-8", "--minutes", 0) == 0
    assert "not fine-tuned" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the time limit ended")
def test_number_of_steps_fits_the_time(reproduce: Main, matching: Path, tmp_path: Path) -> None:
    from studies.compression.model_making import Tuning, make_model

    tuning = Tuning(
        teacher=matching,
        images=tmp_path / "photos",
        settings=read_toml(tmp_path / "finetune.toml"),
        minutes=0.03,
    )
    whole = LinearConfig(activation_bits=0, correct_bias=False)
    step = FinetuneConfig(network="matcher", settings={"loop": {"learning_rate": 1e-3}})
    recipe = Recipe(steps=(PruneConfig(ratio=0.5), whole, step))
    made = make_model(Model.load(matching), recipe, [], tuning, tmp_path, "", (64, 48))
    last = made.provenance.recipe[-1]
    assert last["step"] == "distill" and last["loop"]["learning_rate"] == 1e-3
    assert last.get("stopped_after", last["loop"]["steps"]) > 0 and last["minutes"] < 1
    assert made.quantization.tensors
    with pytest.raises(ConfigError, match="rate"):
        tuning.stage(FinetuneConfig(settings={"rate": 1}), 1)


def test_recipes_fit_the_published_architecture(reproduce: Main) -> None:
    from studies.compression.experiments import EXPERIMENTS, load_recipe, select_experiments

    published = ArchitectureConfig(extractor=SuperPointConfig(), matcher=SuperGlueConfig())
    for experiment in EXPERIMENTS:
        recipe = load_recipe(RECIPES, experiment, published, None)
        recipe.check(published)
        assert any(isinstance(step, FinetuneConfig) for step in recipe.steps)
    assert [e.name for e in select_experiments(["macs-10", "linear-8"])] == ["linear-8", "macs-10"]
    assert len(select_experiments([])) == len(EXPERIMENTS) == 12


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("macs-10", 1),
        ("channel-fine-grained", 2),
        ("kmeans-6", 1),
        ("linear-8", 0),  # needs the weights before rounding
        ("prune-kmeans-huffman", 0),
        ("fine-grained-superglue", 0),  # chooses a threshold after fine-tuning
        ("macs-10-linear-8", 0),
    ],
)
def test_fine_tuning_starts_from_the_model_before_it(
    reproduce: Main, name: str, count: int
) -> None:
    from studies.compression.continuation import num_steps_before_tuning

    assert num_steps_before_tuning(Recipe.load(RECIPES / f"{name}.toml")) == count


@pytest.mark.slow
def test_a_stopped_run_repeats_one_explanation_at_most(
    reproduce: Main, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    explain = ("--only", "linear-8", "--minutes", 0, "--num-repetitions", 0)
    explain += ("--num-explanation-pairs", 1)
    assert reproduce(*explain) == 0
    assert "explain failures" in capsys.readouterr().out
    first = json.loads((tmp_path / "out.json").read_text())["explanations"]
    assert len(first["linear"]) >= 9 and len(first["channels"]) >= 5
    path = tmp_path / "work" / "journal.json"
    steps = json.loads(path.read_text())
    del steps["all channels, channel pruning explained"]
    other = "float32, linear quantization explained"
    steps[other].pop("checksum")
    steps[other]["origin"]["date"] = "2020-01-01"
    path.write_text(json.dumps(steps))
    assert reproduce(*explain) == 0
    output = capsys.readouterr().out
    assert "explain failures" in output
    assert [line for line in output.splitlines() if line.endswith("explained …")] == [
        "  all channels, channel pruning explained …"
    ]
    results = json.loads((tmp_path / "out.json").read_text())
    assert results["explanations"]["channels"] == first["channels"]
    assert results["explanations"]["origins"]["linear"]["date"].startswith("2020-01-01 to 20")
    assert reproduce(*explain) == 0
    assert "explain failures" not in capsys.readouterr().out


@pytest.mark.slow
def test_variants_are_measured(
    reproduce: Main, matching: Path, tmp_path: Path, gray: np.ndarray
) -> None:
    from featherglue.evaluation import HomographySuite
    from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig
    from studies.compression import explanations

    photos = tmp_path / "photos"
    suite = HomographySuite(folder=photos, pair_file=photos / "list.txt", size=(160, 120))
    model = Model.load(matching)
    scorer = HomographyScorer(model, suite, ScoringConfig(num_pairs=1))
    for variants in (explanations.linear_variants, explanations.channel_variants):
        found = variants(model, [gray], (160, 120))
        rows = [explanations.measure(variant, scorer) for variant in found]
        assert rows[0]["recall"] == pytest.approx(scorer(model)["recall"], abs=0.01)
        assert len(rows) == len({row["title"] for row in rows}) >= 5


@pytest.mark.slow
def test_variants_of_models_with_batch_normalization(
    reproduce: Main, models: dict[str, Model]
) -> None:
    from studies.compression import explanations

    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (120, 160), np.uint8)
    for variants, count in ((explanations.linear_variants, 11), (explanations.channel_variants, 6)):
        found = variants(models["four-heads"], [image], (160, 120))
        assert len(found) == count
        for variant in found:
            assert variant.make().extractor is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--only", "luck"), "no experiment 'luck'; the experiments are fine-grained-superglue"),
        (("--recipes", "none"), "cannot be read"),
        (("--model", "none"), "not a featherglue model"),
    ],
)
def test_invalid_arguments(
    reproduce: Main,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    assert reproduce(*arguments) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "work").exists()


def test_ratios_are_allocated_by_a_scan(reproduce: Main, matching: Path) -> None:
    from studies.compression.experiments import load_recipe, select_experiments

    architecture = load_artifact(matching).architecture
    counts = weight_counts(architecture)
    rows = [Row(UNCHANGED, {"auc5": 50.0})]
    for i, name in enumerate(counts):
        for level in (0.5, 0.95):
            rows.append(Row(Change(name, "prune", level), {"auc5": 50 - level * (1 + i % 3)}))
    [both] = select_experiments(["fine-grained-both"])
    folder = RECIPES
    even = load_recipe(folder, both, architecture, None)
    allocated = load_recipe(folder, both, architecture, Scan(rows=tuple(rows)))
    for before, after in zip(even.steps, allocated.steps, strict=True):
        if not isinstance(before, PruneConfig):
            assert before == after
            continue
        names = [name for name in counts if name.startswith(before.include[0][:-1])]
        assert list(after.ratios) == names
        zeros = sum(after.ratios[name] * counts[name] for name in names)
        assert zeros == pytest.approx(before.ratio * sum(counts[name] for name in names))
    with pytest.raises(UsageError, match="lacks the layer matcher"):
        load_recipe(folder, both, architecture, Scan(rows=tuple(rows[:-2])))

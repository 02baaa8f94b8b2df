"""`finetune`, and the steps "finetune" of a recipe: zeros and codes are held."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.artifact.format import load_artifact
from featherglue.compression.compress import compress
from featherglue.compression.finetuning import pruned_weights
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.quantization.kmeans import CodebookConfig, quantize_codebook
from featherglue.compression.quantization.linear import LinearConfig, quantize_linear
from featherglue.compression.recipe import Recipe
from featherglue.models.model import Model
from featherglue.session import load

Run = Callable[..., tuple[int, str, str]]
SETTINGS = """
teacher = "nowhere"
min_keypoints = 20
max_keypoints = 30
[views]
size = [64, 64]
max_points = 32
[scenes]
size = [96, 64]
[loop]
steps = 2
batch_size = 2
workers = 0
warmup = 0
learning_rate = 1e-3
[validation]
fraction = 0
"""


@pytest.fixture
def photos(tmp_path: Path, photographs: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("camera", "coffee"):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(photographs[name], (200, 150)))
    (tmp_path / "settings.toml").write_text(SETTINGS)
    return folder


@pytest.mark.parametrize("part", ["extractor", "matcher", "both"])
def test_zeros_stay(
    part: str, run: Run, folders: dict[str, Path], photos: Path, tmp_path: Path
) -> None:
    parent = Model.load(folders["one-head"])
    prune(parent, PruneConfig(ratio=0.7)).save("pruned")
    arguments = ("finetune", "--model", "pruned", "--images", photos, "-o", "run", "--part", part)
    teacher_options = ("--teacher", folders["one-head"], "--config", "settings.toml")
    code, out, err = run(*arguments, *teacher_options, "--json", "-")
    assert code == 0, err
    made, before = load_artifact(json.loads(out)["output"]), load_artifact("pruned")
    changed = 0
    for name, array in before.arrays.items():
        after = made.arrays[name]
        if array.ndim > 1:
            assert np.array_equal(after == 0, array == 0), name
        changed += not np.array_equal(after, array)
    trained = [n for n in made.arrays if part == "both" or n.startswith(part)]
    assert 0.8 * len(trained) <= changed <= len(trained)
    assert made.provenance.parent == before.hash
    assert load(tmp_path / "run" / "model", threads=1).extract(photos / "camera.png") is not None
    assert run(*arguments, *teacher_options)[0] == 1  # holds a run


def test_quantized_layers_stay_quantized(run: Run, folders: dict[str, Path], photos: Path) -> None:
    parent = Model.load(folders["one-head"])
    shared = quantize_codebook(parent, CodebookConfig(bits=3, include=("matcher.*",)))
    shared.save("shared")
    rounded = quantize_linear(parent, LinearConfig(activation_bits=0, correct_bias=False, bits=5))
    rounded.save("rounded")
    for name in ("shared", "rounded"):
        arguments = (
            "--model",
            name,
            "--images",
            photos,
            "-o",
            f"run-{name}",
            "--config",
            "settings.toml",
        )
        code, _, err = run("finetune", *arguments, "--teacher", folders["one-head"])
        assert code == 0, err
        before, made = load_artifact(name), load_artifact(f"run-{name}/model")
        assert made.quantization.tensors.keys() == before.quantization.tensors.keys()
        assert any(not np.array_equal(made.arrays[n], before.arrays[n]) for n in made.arrays)
    values = made.arrays["matcher.gnn.layers.0.mlp.0.weight"]
    assert all(len(np.unique(row)) <= 2**5 for row in values)


def test_only_pruned_weights_stay_zero(folders: dict[str, Path]) -> None:
    steps = (
        PruneConfig(ratio=0.5, include=("matcher.gnn.*",)),
        LinearConfig(activation_bits=0, correct_bias=False, bits=4),
    )
    made = compress(Model.load(folders["one-head"]), Recipe(steps=steps))
    held = pruned_weights(made).kept
    assert held and all(name.startswith("matcher.gnn.") for name in held)
    weight = made.to_artifact().arrays["extractor.conv3b.weight"]
    assert (weight == 0).any()  # by rounding
    pruned = prune(Model.load(folders["one-head"]), PruneConfig(ratio=0.5))
    assert "extractor.conv3b" in pruned_weights(pruned).kept


def test_a_recipe_can_fine_tune(run: Run, folders: dict[str, Path], photos: Path) -> None:
    Path("r.toml").write_text(
        '[[steps]]\nstep = "prune"\nratio = 0.6\n'
        '[[steps]]\nstep = "finetune"\nnetwork = "matcher"\n'
        "[steps.settings]\nmin_keypoints = 20\nmax_keypoints = 30\n"
        "[steps.settings.scenes]\nsize = [96, 64]\n"
        "[steps.settings.loop]\nsteps = 2\nbatch_size = 2\nworkers = 0\nwarmup = 0\n"
        "[steps.settings.validation]\nfraction = 0\n"
        '[[steps]]\nstep = "codebook"\nbits = 4\n'
    )
    arguments = ("compress", "--model", folders["one-head"], "--recipe", "r.toml", "-o", "made")
    code, _, err = run(*arguments)
    assert code == 2 and "requires --images and --runs" in err
    code, _, err = run(*arguments, "--images", photos, "--runs", "runs")
    assert code == 0, err
    made = load_artifact("made")
    weight = made.arrays["matcher.gnn.layers.0.mlp.0.weight"]
    assert 0.55 < (weight == 0).mean() < 0.65 and len(np.unique(weight)) <= 16
    names = [step["step"] for step in made.provenance.recipe]
    assert names[-3:] == ["prune", "distill", "codebook"]
    assert (Path("runs") / "1" / "last.pt").exists()


def test_usage_errors(run: Run, folders: dict[str, Path], photos: Path) -> None:
    model = folders["one-head"]
    code, _, err = run("finetune", "--model", model, "--images", photos, "-o", "run")
    assert code == 2 and "--teacher" in err
    given = ("--images", photos, "-o", "run", "--teacher", model)
    code, _, err = run("finetune", "--model", model, *given, "--part", "all")
    assert code == 2 and "--part" in err
    code, _, err = run("finetune", "--model", "missing", *given)
    assert code == 1 and "missing" in err
    code, _, err = run("compress", "--model", model, "--recipe", "r.toml", "-o", "m", "--runs", "r")
    assert code == 2 and "require each other" in err


def test_a_recipe_can_prune_on_the_way(run: Run, folders: dict[str, Path], photos: Path) -> None:
    recipe = (
        '[[steps]]\nstep = "finetune"\nnetwork = "matcher"\n'
        'prune = {ratio = 0.75, include = ["matcher.gnn.*"]}\n'
        "schedule = {end = 3, every = 1}\n"
        "[steps.settings]\nmin_keypoints = 20\nmax_keypoints = 30\n"
        "[steps.settings.scenes]\nsize = [96, 64]\n"
        "[steps.settings.loop]\nsteps = 4\nbatch_size = 2\nworkers = 0\nwarmup = 0\n"
        "[steps.settings.validation]\nshare = 0\n"  # the name of version 0.1
    )
    Path("r.toml").write_text(recipe)
    given = ("compress", "--model", folders["one-head"], "--recipe", "r.toml")
    training = ("--images", photos, "--runs", "runs")
    code, _, err = run(*given, "-o", "made", *training)
    assert code == 0, err
    made = load_artifact("made")
    names = [step["step"] for step in made.provenance.recipe]
    assert names[-2:] == ["prune", "distill"]
    held = pruned_weights(Model.from_artifact(made)).kept
    assert held and all(name.startswith("matcher.gnn.") for name in held)
    for name in held:
        zeros = np.mean(made.arrays[f"{name}.weight"] == 0)
        assert 0.7 < zeros < 0.8, name
    for changed, message in (
        (recipe.replace("end = 3", "end = 5"), "schedule.end = 5 must not exceed loop.steps = 4"),
        (recipe.replace('include = ["matcher.gnn.*"]', "ratios = {}"), "prune selects"),
        (recipe.replace("schedule = {end = 3, every = 1}\n", ""), "require each other"),
    ):
        Path("r.toml").write_text(changed)
        code, _, err = run(*given, "-o", "other", *training)
        assert (code, message in err) == (2, True), err

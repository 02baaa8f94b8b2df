"""The commands `compress`, `prune` and `quantize`, and `info` for their models."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from featherglue.artifact.format import load_artifact
from featherglue.artifact.layers import total_macs
from featherglue.models.model import Model
from featherglue.runtime.base import open_runtime

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photos(tmp_path: Path, photographs: dict[str, np.ndarray]) -> Path:
    """A folder of two small photographs and a text file."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("camera", "astronaut"):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(photographs[name], (160, 120)))
    (folder / "notes.txt").write_text("no image")
    return folder


RECIPE = """
[[steps]]
step = "prune"
ratio = 0.5
importance = "activation"

[[steps]]
step = "linear"
include = ["extractor.conv3a", "extractor.conv3b"]

[[steps]]
step = "codebook"
bits = 4
include = ["matcher.*"]
"""


def test_compress_applies_a_recipe(
    run: Run, folders: dict[str, Path], photos: Path, tmp_path: Path, gray: np.ndarray
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    size = ("--image-size", 160, 120)
    given = (
        "--recipe",
        "r.toml",
        "-o",
        "out/small",
        "--calibration-images",
        photos,
        *size,
        "--json",
        "-",
    )
    code, out, err = run("compress", "--model", folders["one-head"], *given)
    assert (code, err) == (0, "")
    facts = json.loads(out)
    artifact = load_artifact("out/small")
    assert facts["hash"] == artifact.hash
    assert artifact.provenance.parent == load_artifact(folders["one-head"]).hash
    assert [step["step"] for step in artifact.provenance.recipe] == ["prune", "linear", "codebook"]
    assert facts["integer_layers"] == ["extractor.conv3a", "extractor.conv3b"]
    assert set(facts["float_layers"].values()) == {"the weight is a codebook"}
    assert facts["disk_ratio"] > 0
    assert facts["nonzero"] < 0.6 * facts["parameters"]
    scores = [open_runtime(artifact, r, 1).extract(gray)[0] for r in ("torch", "onnxruntime")]  # type: ignore[arg-type]
    np.testing.assert_allclose(*scores, atol=0.02)
    code, out, err = run(
        "info", "--model", "out/small", "--layers", "--baseline", folders["one-head"], "--verbose"
    )
    assert (code, err) == (0, "")
    for fact in (
        "integer layers",
        "7-bit weights",
        "the weight is a codebook",
        "MACs with non-zero weights",
        "codebook 4",
        "linear 7 ∗",
        "step codebook",
    ):
        assert fact in out


def test_prune(run: Run, folders: dict[str, Path]) -> None:
    model = folders["one-head"]
    code, out, err = run(
        "prune", "--model", model, "-o", "half", "--ratio", 0.5, "--include", "matcher.*"
    )
    assert (code, err) == (0, "")
    assert "wrote half" in out
    arrays = load_artifact("half").arrays
    assert np.mean(arrays["matcher.final_proj.weight"] == 0) == 0.5
    assert arrays["extractor.conv1b.weight"].all()
    assert run("prune", "--model", model, "-o", "narrow", "--ratio", 0.5, "--channels")[0] == 0
    extractor = load_artifact("narrow").architecture.extractor
    assert extractor is not None and extractor.channels == (2, 2, 4, 4, 4, 4, 8, 8)
    assert run("prune", "--model", model, "-o", "four", "--pattern", "2:4")[0] == 0
    assert np.mean(load_artifact("four").arrays["matcher.final_proj.weight"] == 0) == 0.5
    code, out, _ = run("prune", "--model", model, "-o", "fast", "--macs", 0.9, "--json", "-")
    before = sum(total_macs(load_artifact(model).architecture).values())
    assert code == 0
    assert 0.5 * before < json.loads(out)["macs"] <= 0.9 * before


@pytest.mark.slow
def test_quantize(run: Run, folders: dict[str, Path], photos: Path) -> None:
    model = folders["one-head"]
    codebook = ("--scheme", "codebook", "--bits", 3, "--exclude", "extractor.conv1a")
    assert run("quantize", "--model", model, "-o", "coded", *codebook)[0] == 0
    storage = load_artifact("coded").storage.tensors
    assert storage["matcher.final_proj.weight"].bits == 3
    assert storage["extractor.conv1a.weight"].scheme == "float"
    assert (
        run("quantize", "--model", model, "-o", "weights", "--bits", 5, "--activation-bits", 0)[0]
        == 0
    )
    artifact = load_artifact("weights")
    assert artifact.storage.tensors["extractor.conv1b.weight"].bits == 5
    assert not artifact.quantization.activations
    size = ("--image-size", 160, 120, "--num-calibration-images", 1)
    code, out, _ = run(
        "quantize", "--model", model, "-o", "whole", "--calibration-images", photos, *size
    )
    assert code == 0
    assert ") run with integers" in out
    assert load_artifact("whole").quantization.activations
    code, out, _ = run("info", "--model", "whole", "--json", "-")
    facts = json.loads(out)
    assert code == 0 and len(facts["integer_layers"]) > 10 and not facts["saturates_without_vnni"]


@pytest.mark.slow
def test_wildcards_that_select_sensitive_layers_warn(run: Run, folders: dict[str, Path]) -> None:
    weights = ("--activation-bits", 0, "--include", "extractor.*")
    _, _, err = run("quantize", "--model", folders["one-head"], "-o", "all", *weights)
    assert "warning: --include selects" in err and "extractor.convPb, extractor.convDb" in err
    Path("r.toml").write_text(
        '[[steps]]\nstep = "linear"\nactivation_bits = 0\ncorrect_bias = false\n'
        'include = ["extractor.*"]\n'
    )
    recipe = ("--recipe", "r.toml")
    _, _, err = run("compress", "--model", folders["one-head"], "-o", "recipe", *recipe)
    assert 'warning: "include" of the recipe selects' in err and "--include" not in err
    for quiet in (
        ("--include", "extractor.conv2*"),
        ("--include", "extractor.convPb"),
        ("--include", "extractor.*", "--exclude", "extractor.conv1a", "--exclude", "*.conv[PD]b"),
        ("--exclude", "matcher.*"),
        ("--include", "matcher.gnn.*"),  # whose products have no weights
    ):
        options = ("--activation-bits", 0, *quiet)
        assert run("quantize", "--model", folders["one-head"], "-o", "some", *options)[2] == "", (
            quiet
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("prune", "--ratio", 1.5), "a ratio must be in [0, 1), not 1.5"),
        (("prune",), "set how much to remove"),
        (("prune", "--ratio", 0.5, "--macs", 0.5), "--macs determines what is removed"),
        (("prune", "--ratio", 0.5, "--channels", "--pattern", "4x1"), "apply to single weights"),
        (
            ("prune", "--ratio", 0.5, "--include", "extractor.conv9"),
            "the closest names are extractor.conv",
        ),
        (("prune", "--ratio", 0.99, "--channels"), "removes all 4 units"),
        (("prune", "--ratio", 0.5, "--importance", "luck"), "is not one of"),
        (
            ("prune", "--ratio", 0.5, "--importance", "taylor"),
            "requires photographs; set --calibration-images",
        ),
        (("quantize",), "requires photographs; set --calibration-images"),
        (("quantize", "--scheme", "lossless"), "is not one of"),
        (("quantize", "--scheme", "codebook", "--bits", 1), "must be 2 to 8, not 1"),
        (("quantize", "--bits", 9), "must be 4 to 8, not 9"),
        (("compress", "--recipe", "none.toml"), "none.toml: cannot be read"),
        (
            ("prune", "--ratio", 0.5, "--calibration-images", "x", "--image-size", 3),
            "--image-size must be a width and a height",
        ),
        # Options that would have no effect.
        (("prune", "--ratio", 0.5, "--image-size", 8, 8), "--image-size requires --calibration"),
        (
            ("quantize", "--num-calibration-images", 3),
            "--num-calibration-images requires --calibration-images",
        ),
        (
            ("prune", "--ratio", 0.5, "--calibration-images", "x"),
            "no step uses --calibration-images",
        ),
        (
            ("quantize", "--scheme", "codebook", "--activation-bits", 8),
            "--activation-bits requires --scheme linear",
        ),
        (
            ("quantize", "--scheme", "codebook", "--activation-bits", 0),
            "--activation-bits requires --scheme linear",
        ),
        (("quantize", "--scheme", "codebook", "--per", "tensor"), "--per requires --scheme linear"),
        (("compress", "--recipe", "r.toml", "--device", "cpu"), "require --images"),
        (("compress", "--recipe", "r.toml", "--threads", 2), "require --images"),
        (("compress", "--recipe", "r.toml", "--runs", "r"), "require each other"),
        (("compress", "--recipe", "r.toml", "--images", "p", "--runs", "r"), 'no step "finetune"'),
    ],
)
def test_invalid_options_exit_with_2(
    run: Run, folders: dict[str, Path], arguments: tuple[object, ...], message: str
) -> None:
    Path("r.toml").write_text('[[steps]]\nstep = "fold"\n')
    name, *rest = arguments
    code, out, err = run(name, "--model", folders["one-head"], "-o", "out", *rest)
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("out").exists()


def test_failures(run: Run, folders: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    model = folders["one-head"]
    code, _, err = run(
        "quantize", "--model", model, "-o", "out", "--calibration-images", tmp_path / "none"
    )
    assert code == 1 and "no such folder" in err
    (tmp_path / "empty").mkdir()
    code, _, err = run(
        "quantize", "--model", model, "-o", "out", "--calibration-images", tmp_path / "empty"
    )
    assert code == 1 and "no images in this folder" in err
    (photos / "broken.png").write_bytes(b"no picture")
    code, _, err = run("quantize", "--model", model, "-o", "out", "--calibration-images", photos)
    assert code == 1 and "broken.png" in err
    # A folder that is not a model is not replaced.
    code, _, err = run("prune", "--model", model, "-o", photos, "--ratio", 0.5)
    assert code == 1 and "not a featherglue model" in err
    code, _, err = run("prune", "--model", "nothing", "-o", "out", "--ratio", 0.5)
    assert code != 0 and "nothing" in err
    assert not Path("out").exists()


def test_quantized_model_cannot_be_pruned(
    run: Run, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    assert (
        run("quantize", "--model", folders["bare"], "-o", "coded", "--scheme", "codebook")[0] == 0
    )
    code, _, err = run("prune", "--model", "coded", "-o", "out", "--ratio", 0.5)
    assert code == 2
    assert "a quantized model cannot be pruned" in err


def test_info_needs_no_pytorch(folders: dict[str, Path]) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from featherglue.cli import main
assert main(["info", "--model", {str(folders["bare"])!r}, "--layers"]) == 0
assert main(["prune", "--model", {str(folders["bare"])!r}, "-o", "out", "--ratio", "0.5"]) == 1
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "extractor.conv4b" in done.stdout
    assert "pip install 'featherglue[train]'" in done.stderr

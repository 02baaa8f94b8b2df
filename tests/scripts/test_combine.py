"""scripts/combine.py: a turned extractor, of wider descriptors too, is turned back."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.session import load

SCRIPT = Path(__file__).parents[2] / "scripts" / "combine.py"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("combine", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("width", [16, 24])
def test_a_turned_extractor_is_turned_back(
    width: int,
    script: ModuleType,
    matching: Path,
    grey: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = Model.load(matching)
    assert model.extractor is not None
    state = model.extractor.state_dict()
    torch.manual_seed(1)
    turn = torch.linalg.qr(torch.randn(width, 16))[0]
    state["convDb.weight"] = torch.einsum("oi,ixyz->oxyz", turn, state["convDb.weight"])
    state["convDb.bias"] = turn @ state["convDb.bias"]
    turned = SuperPoint(replace(model.extractor.config, descriptor_dim=width)).eval()
    turned.load_state_dict(state)
    other = replace(model, extractor=turned, matcher=model.matcher if width == 16 else None)
    steps = ({"step": "superpoint", "seed": 7}, {"step": "superglue", "seed": 8})
    replace(other, provenance=replace(other.provenance, recipe=steps)).save(tmp_path / "turned")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "a.png"), grey)
    arguments = [str(tmp_path / "turned"), str(matching), "--images", str(tmp_path / "photos")]
    monkeypatch.setattr(sys, "argv", ["combine.py", *arguments, "-o", str(tmp_path / "both")])
    script.main()
    assert "1.000 after" in capsys.readouterr().out
    made = load_artifact(tmp_path / "both")
    assert [s["step"] for s in made.provenance.recipe] == ["superpoint", "turn-descriptors"]
    expected = model.to_artifact().arrays
    for name, array in made.arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    found, original = (load(folder)(grey, grey) for folder in (tmp_path / "both", matching))
    np.testing.assert_array_equal(found.matches.indices, original.matches.indices)

"""Models: loading by name, and conversion to artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import featherglue as fg
from featherglue.artifact.registry import find_model, shipped_models
from featherglue.errors import ArtifactError
from featherglue.models.model import Model


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_load_by_name(name: str) -> None:
    by_name, by_path = Model.load(name), Model.load(find_model(name))
    assert by_name.architecture == by_path.architecture
    assert by_name.processing == fg.load(name).processing
    expected = by_path.to_artifact().arrays
    for key, array in by_name.to_artifact().arrays.items():
        np.testing.assert_array_equal(array, expected[key])


def test_unknown_models_raise(tmp_path: Path) -> None:
    for model in ("fst", tmp_path / "missing"):
        with pytest.raises(ArtifactError, match="expected a folder, or one of"):
            Model.load(model)


def test_build_is_seeded_and_artifacts_are_copies(models: dict[str, Model]) -> None:
    architecture = models["bare"].architecture
    built = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        built.append(Model.build(architecture).to_artifact())
    name = "matcher.final_proj.weight"
    np.testing.assert_array_equal(built[0].arrays[name], built[1].arrays[name])
    assert (built[0].arrays[name] != built[2].arrays[name]).any()
    model = Model.from_artifact(built[0])
    model.to_artifact().arrays[name][:] = 7
    assert (model.to_artifact().arrays[name] != 7).all()


def test_a_model_prints_as_one_line() -> None:
    text = repr(Model.load("fast"))
    assert text.startswith("Model(extractor of ")
    assert "matcher of" in text
    assert len(text) < 100

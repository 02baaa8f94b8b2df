"""An extractor combined with the matcher of another model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from featherglue.artifact.format import load_artifact
from featherglue.errors import UsageError
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.session import load
from featherglue.train.combination import combine


def rotated(model: Model, width: int) -> Model:
    """The model with descriptors (16-d) rotated in a space of `width` dimensions."""
    assert model.extractor is not None
    state = model.extractor.state_dict()
    torch.manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(width, 16))[0]
    state["convDb.weight"] = torch.einsum("oi,ixyz->oxyz", rotation, state["convDb.weight"])
    state["convDb.bias"] = rotation @ state["convDb.bias"]
    extractor = SuperPoint(replace(model.extractor.config, descriptor_dim=width)).eval()
    extractor.load_state_dict(state)
    steps = ({"step": "superpoint", "seed": 7}, {"step": "superglue", "seed": 8})
    return replace(
        model,
        extractor=extractor,
        matcher=model.matcher if width == 16 else None,
        provenance=replace(model.provenance, recipe=steps),
    )


@pytest.mark.parametrize("width", [16, 24])
def test_rotated_descriptors_are_rotated_back(
    width: int, matching: Path, gray: np.ndarray, tmp_path: Path
) -> None:
    model = Model.load(matching)
    rotated(model, width).save(tmp_path / "rotated")
    combined = combine(tmp_path / "rotated", matching, [gray])
    assert combined.aligned is not None
    assert combined.aligned.cosine_before < 0.9
    assert combined.aligned.cosine_after == pytest.approx(1, abs=1e-3)
    combined.model.save(tmp_path / "both")
    made = load_artifact(tmp_path / "both")
    assert [s["step"] for s in made.provenance.recipe] == ["superpoint", "turn-descriptors"]
    expected = model.to_artifact().arrays
    for name, array in made.arrays.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-4, atol=1e-4, err_msg=name)
    found, original = (load(folder)(gray, gray) for folder in (tmp_path / "both", matching))
    np.testing.assert_array_equal(found.matches.indices, original.matches.indices)


def test_descriptors_are_unchanged_without_images(matching: Path, tmp_path: Path) -> None:
    model = Model.load(matching)
    other = rotated(model, 16)
    other.save(tmp_path / "rotated")
    combined = combine(tmp_path / "rotated", matching)
    assert combined.aligned is None
    expected = other.to_artifact().arrays["extractor.convDb.weight"]
    found = combined.model.to_artifact().arrays["extractor.convDb.weight"]
    np.testing.assert_array_equal(found, expected)


def test_a_missing_network_is_an_error(matching: Path, gray: np.ndarray, tmp_path: Path) -> None:
    model = Model.load(matching)
    replace(model, matcher=None).save(tmp_path / "extractor")
    replace(model, extractor=None).save(tmp_path / "matcher")
    with pytest.raises(UsageError, match="no extractor"):
        combine(tmp_path / "matcher", matching)
    with pytest.raises(UsageError, match="no matcher"):
        combine(matching, tmp_path / "extractor")
    with pytest.raises(UsageError, match="no extractor to align"):
        combine(matching, tmp_path / "matcher", [gray])
    rotated(model, 24).save(tmp_path / "wide")
    with pytest.raises(UsageError, match="no matcher"):
        combine(matching, tmp_path / "wide", [gray])

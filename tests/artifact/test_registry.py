"""Models by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model, shipped_models
from featherglue.errors import ArtifactError, UsageError


def test_shipped_models_are_artifacts() -> None:
    assert {"fast", "balanced"} <= set(shipped_models())
    for name in shipped_models():
        assert load_artifact(find_model(name)).name == name


def test_folders_are_found(folders: dict[str, Path]) -> None:
    assert find_model(folders["bare"]) == folders["bare"]
    assert find_model(str(folders["bare"])) == folders["bare"]


def test_unknown_models_raise(tmp_path: Path) -> None:
    for model in ("fst", tmp_path / "missing"):
        with pytest.raises(ArtifactError, match="expected a folder, or one of balanced, fast"):
            find_model(model)


@pytest.mark.parametrize("model", [None, 3, ["fast"]])
def test_other_values_are_no_models(model: object) -> None:
    with pytest.raises(UsageError, match="a name or a path"):
        find_model(model)  # type: ignore[arg-type]

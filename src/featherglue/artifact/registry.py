"""Models by name: those that come with featherglue, and folders."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from featherglue.artifact.format import CONFIG
from featherglue.errors import ArtifactError


def shipped_models() -> list[str]:
    """Names of the models that come with featherglue."""
    root = Path(str(resources.files("featherglue"))) / "weights"
    return sorted(path.parent.name for path in root.glob(f"*/{CONFIG}"))


def find_model(model: str | os.PathLike[str]) -> Path:
    """The folder of a shipped model's name, or the folder itself.

    Raises:
        ArtifactError: neither; the message lists the shipped names.
    """
    names = shipped_models()
    if isinstance(model, str) and model in names:
        return Path(str(resources.files("featherglue"))) / "weights" / model
    if Path(model).is_dir():
        return Path(model)
    raise ArtifactError(
        f"no model {str(model)!r}: not a folder, nor shipped ({', '.join(names) or 'none is'})"
    )

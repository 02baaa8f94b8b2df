"""The models that featherglue ships, by name."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

from featherglue.artifact.folder import CONFIG
from featherglue.errors import ArtifactError, UsageError, did_you_mean

_MAX_SHOWN = 200  # characters of a name in a message


def shipped_models() -> list[str]:
    """Names of the models that featherglue ships, sorted."""
    return sorted(path.parent.name for path in _root().glob(f"*/{CONFIG}"))


def find_model(model: str | os.PathLike[str]) -> Path:
    """The folder of a model.

    Args:
        model: name of a shipped model, or the path of an artifact folder.

    Raises:
        ArtifactError: there is no shipped model and no folder of that name.
        UsageError: `model` is neither a string nor a path.
    """
    if not isinstance(model, (str, os.PathLike)) or isinstance(os.fspath(model), bytes):
        raise UsageError(f"model must be a name or a path, not {type(model).__name__}")
    if os.fspath(model) == "":
        raise UsageError("model must be a name or a path, not ''")
    names = shipped_models()
    if isinstance(model, str) and model in names:
        return _root() / model
    try:
        if Path(model).is_dir():
            return Path(model)
    except (OSError, ValueError):  # too long for the file system, or with a NUL character
        pass
    shown = repr(str(model)[:_MAX_SHOWN])
    hint = did_you_mean(str(model)[:_MAX_SHOWN], names)
    raise ArtifactError(f"no model {shown}{hint}: expected a folder, or one of {', '.join(names)}")


def portable_name(folder: Path | None) -> str:
    """The name of a shipped model, which any installation knows; else the absolute path.

    Raises:
        UsageError: the model has no folder.
    """
    if folder is None:
        raise UsageError("the model has no folder: save it first")
    path = folder.resolve()
    return path.name if path.parent == _root().resolve() else str(path)


def _root() -> Path:
    return Path(str(resources.files("featherglue"))) / "weights"

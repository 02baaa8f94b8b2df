"""The files of an artifact, and the atomic replacement of an artifact folder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from featherglue.errors import OutputError
from featherglue.io.json import read_json

FORMAT = "featherglue"
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def check_output(folder: str | os.PathLike[str]) -> None:
    """Check that an artifact may be written to `folder`.

    Raises:
        OutputError: it exists and is neither an empty folder nor an artifact.
    """
    if Path(folder).exists() and not _is_replaceable(Path(folder)):
        raise OutputError(f"{folder}: exists and is not a featherglue model; choose another folder")


def replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a folder, atomically; an artifact there is removed with all its files.

    Raises:
        OutputError: the folder cannot be written, or is not an artifact.
    """
    try:
        check_output(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".featherglue.", dir=folder.parent) as temporary:
            new, old = Path(temporary) / "new", Path(temporary) / "old"
            new.mkdir()
            for name, data in files.items():
                (new / name).write_bytes(data)
            if folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _is_replaceable(folder: Path) -> bool:
    """Whether a path is an empty folder or an artifact."""
    if not folder.is_dir():
        return False
    if not any(folder.iterdir()):
        return True
    try:
        header = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(header, dict) and header.get("format") == FORMAT

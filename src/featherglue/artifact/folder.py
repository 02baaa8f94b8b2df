"""The files of an artifact, and the atomic replacement of an artifact folder."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from featherglue.errors import OutputError
from featherglue.io.json import read_json
from featherglue.io.partial import partial_folder

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
        with partial_folder(folder.parent) as new:
            for name, data in files.items():
                (new / name).write_bytes(data)
            if not folder.exists():
                new.rename(folder)
            elif not _exchange(new, folder):
                _replace_in_steps(new, folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror or error})") from None


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, which Linux can. Returns whether they were swapped."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    paths = os.fsencode(first), os.fsencode(second)
    return rename is not None and rename(here, paths[0], here, paths[1], exchange) == 0


def _replace_in_steps(new: Path, folder: Path) -> None:
    """Replace a folder on other systems. A kill between the steps leaves it under another name."""
    old = folder.with_name(f".{folder.name}.old")
    folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


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

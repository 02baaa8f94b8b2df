"""Atomic writes: a file is written completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import OutputError
from featherglue.io.partial import PartialFile
from featherglue.machine import exhausted_resource


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a binary file that replaces `path` when the `with` block ends without an error.

    Missing folders are created. What a killed process left unfinished in the folder is removed. A
    symbolic link stays, and its target is replaced. Pipes and devices are written directly.

    Raises:
        OutputError: the folder cannot be created, or the file cannot be written.
    """
    path = Path(path)
    try:
        target = path.resolve()
        if target.is_dir():
            raise OutputError(f"{path}: cannot be written; it is a folder")
        if target.exists() and not target.is_file():
            with target.open("wb") as file:
                yield file
            return
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    with _replaced(target, path) as file:
        yield file


@contextmanager
def _replaced(path: Path, shown: Path) -> Iterator[BinaryIO]:
    """As `atomic_write`, for a regular file; `shown` is its name in messages."""
    partial = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = PartialFile(path.parent)
        yield partial.file
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{shown}: cannot be written ({error.strerror or error})") from None
    finally:
        if partial is not None:
            partial.discard()


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name as an uncompressed npz file.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write JSON values, indented.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_write(path) as file:
        file.write(json_text(data, "utf-8").encode())


def json_text(data: Any, encoding: str) -> str:
    """JSON values as indented text, with escape sequences if the encoding lacks a character.

    UTF-8 lacks the stand-ins for bytes of file names that are not UTF-8.
    """
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(data, indent=2) + "\n"
    return text


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write an image in the format of its suffix.

    Args:
        path: the file, such as "matches.png".
        image: (H, W) gray or (H, W, 3) RGB, uint8.

    Raises:
        OutputError: the suffix names no image format, or the file cannot be written.
    """
    path = Path(path)
    bgr = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])
    try:
        ok, encoded = cv2.imencode(path.suffix, bgr)
    except cv2.error as error:
        if exhausted_resource(error):
            raise
        ok = False
    if not ok:
        raise OutputError(f"{path}: {path.suffix!r} is not an image format; use .png or .jpg")
    with atomic_write(path) as file:
        file.write(encoded.tobytes())

"""Writing files whole or not at all."""

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


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a file for writing bytes; it appears under its name only when all went well.

    Raises:
        OutputError: the folder cannot be made, or the file cannot be written.
    """
    path = Path(path)
    try:
        target = path.resolve()  # through links, which stay
        if target.is_dir():
            raise OutputError(f"{path}: cannot be written, it is a folder")
        if target.exists() and not target.is_file():  # a pipe or a device
            with target.open("wb") as file:
                yield file
            return
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    with _replacing(target, path) as file:
        yield file


@contextmanager
def _replacing(path: Path, shown: Path) -> Iterator[BinaryIO]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{shown}: cannot be written ({error.strerror or error})") from None
    finally:
        if partial.is_file():
            partial.unlink()


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as an uncompressed npz file."""
    with atomic(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]


def write_json(path: str | os.PathLike[str], data: Any) -> None:
    """Write plain values as indented JSON."""
    with atomic(path) as file:
        file.write((json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode())


def write_image(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write an image (H, W) grey or (H, W, 3) RGB; the suffix chooses the format."""
    path = Path(path)
    bgr = image if image.ndim == 2 else np.ascontiguousarray(image[:, :, ::-1])
    try:
        ok, encoded = cv2.imencode(path.suffix, bgr)
    except cv2.error:
        ok = False
    if not ok:
        raise OutputError(
            f"{path}: no image format for the suffix {path.suffix!r}; use .png or .jpg"
        )
    with atomic(path) as file:
        file.write(encoded.tobytes())

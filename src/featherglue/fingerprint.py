"""Fingerprints of weights, settings, code and inputs.

A fingerprint is a hexadecimal string of 16 digits: the start of a SHA-256. Equal values have equal
fingerprints in every process and on every machine. Cached results are
stored with the fingerprint of everything that determines them.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.errors import UsageError

DIGITS = 16


def fingerprint(*values: Any) -> str:
    """Fingerprint of plain values: None, booleans, numbers, strings, lists and mappings.

    NumPy arrays are accepted at any depth: their dtype, shape and bytes count.

    Raises:
        UsageError: a value of another type.
    """
    try:
        text = json.dumps(values, sort_keys=True, default=_plain)
    except TypeError as error:
        raise UsageError(f"a fingerprint needs plain values ({error})") from None
    return _digest(text.encode())


def array_fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    """Fingerprint of named arrays; independent of their order."""
    return fingerprint({name: _plain(array) for name, array in arrays.items()})


def file_fingerprint(path: str | os.PathLike[str]) -> str:
    """Fingerprint of the content of a file.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:DIGITS]


def file_state(path: str | os.PathLike[str]) -> list[Any]:
    """Resolved path, size in bytes and modification time in ns of a file; [path] if it is missing.

    It identifies the content of a large file without reading it.
    """
    try:
        resolved = Path(path).resolve()
        status = resolved.stat()
    except (OSError, ValueError, RuntimeError):  # a NUL character, or a loop of links
        return [os.path.abspath(path)]  # noqa: PTH100 (Path.resolve raises)
    return [str(resolved), status.st_size, status.st_mtime_ns]


@functools.cache
def code_fingerprint() -> str:
    """Fingerprint of the package and of the libraries that affect its results."""
    import cv2

    import featherglue

    root = Path(__file__).parent
    files = sorted(path for path in root.rglob("*.py") if path.is_file())
    code = {path.relative_to(root).as_posix(): file_fingerprint(path) for path in files}
    return fingerprint(code, featherglue.__version__, np.__version__, str(cv2.__version__))


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), list(value.shape), _digest(np.ascontiguousarray(value).tobytes())]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not a plain value")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:DIGITS]

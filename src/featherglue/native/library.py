"""The compiled kernels, called through ctypes, which releases Python's global lock.

They are compiled when the package is installed. Without them, or with `FEATHERGLUE_NATIVE=0` in the
environment, ONNX Runtime and NumPy do their work with the same results up to rounding: that of
float32, or of bfloat16 in the matcher (`multiplies_bfloat16`).
"""

from __future__ import annotations

import ctypes
import os
import warnings
import zlib
from ctypes import c_double, c_float, c_int, c_int64, c_uint32, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from featherglue.errors import KernelsWarning

MAX_THREADS = 64  # of one call

_FOLDER = Path(__file__).parent
_NOT_COMPILED = "not compiled; install featherglue again with a C compiler"
_REMEDY = "matching is slower until you install featherglue again (pip install .)"
_INTEGER, _FLOAT, _ARRAY = c_int64, c_float, c_void_p
# Kernel -> type of the result and of the arguments; see the C sources for their meaning.
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "source_hash": (c_uint32, []),
    "has_x86_64_v3": (c_int, []),
    "has_bfloat16": (c_int, []),
    "optimal_transport": (
        c_int,
        [_ARRAY, *[_INTEGER] * 3, _FLOAT, _INTEGER, _FLOAT, _ARRAY, _INTEGER, _ARRAY],
    ),
    "match_scores_work_size": (_INTEGER, [_INTEGER] * 2),
    "match_scores": (
        _INTEGER,
        [
            _ARRAY,
            *[_INTEGER] * 3,
            _FLOAT,
            _INTEGER,
            _FLOAT,
            _FLOAT,
            _INTEGER,
            *[_ARRAY] * 4,
        ],
    ),
    "mutual_pairs": (_INTEGER, [_ARRAY, *[_INTEGER] * 3, _FLOAT, *[_ARRAY] * 4]),
    "nearest_work_size": (_INTEGER, [_INTEGER] * 2),
    "nearest_pairs": (
        _INTEGER,
        [_ARRAY, _INTEGER, _ARRAY, *[_INTEGER] * 2, _FLOAT, *[_ARRAY] * 6],
    ),
    "find_keypoints": (
        _INTEGER,
        [_ARRAY, *[_INTEGER] * 3, _FLOAT, _ARRAY, _INTEGER, *[_ARRAY] * 5, _INTEGER],
    ),
    "place_keypoints": (None, [_ARRAY, *[_INTEGER] * 2, _ARRAY, *[_INTEGER] * 2, *[_ARRAY] * 2]),
    "sample_descriptors": (None, [_ARRAY, *[_INTEGER] * 3, _ARRAY, _INTEGER, _ARRAY]),
    "extract_work_size": (_INTEGER, [_ARRAY, *[_INTEGER] * 3]),
    "extract_network": (None, [*[_ARRAY] * 3, *[_INTEGER] * 3, *[_ARRAY] * 3]),
    "match_work_size": (_INTEGER, [_ARRAY, *[_INTEGER] * 4]),
    "match_score_columns": (_INTEGER, [_INTEGER]),
    "match_network": (
        None,
        [*[_ARRAY] * 4, _INTEGER, *[_ARRAY] * 2, *[_INTEGER] * 3, *[_ARRAY] * 2],
    ),
    "optimize_fundamental": (
        c_int,
        [
            *[_ARRAY] * 2,
            _INTEGER,
            _ARRAY,
            *[c_double] * 3,
            *[_INTEGER] * 2,
            c_double,
            _ARRAY,
        ],
    ),
    "nearest_points": (None, [*[_ARRAY] * 3, _INTEGER, _INTEGER, _ARRAY, _ARRAY]),
    "fit_maps": (None, [_ARRAY, _INTEGER, _INTEGER, _ARRAY, _ARRAY, _FLOAT, _FLOAT, _ARRAY]),
    "align_windows": (
        None,
        [
            *[_ARRAY, _INTEGER, _INTEGER] * 2,
            *[_ARRAY] * 4,
            _INTEGER,
            *[_ARRAY] * 3,
            *[_INTEGER] * 3,
            _FLOAT,
            _FLOAT,
            *[_ARRAY] * 3,
        ],
    ),
    "match_sparse_work_size": (_INTEGER, [_ARRAY, *[_INTEGER] * 3]),
    "match_sparse": (None, [*[_ARRAY] * 6, _INTEGER, *[_ARRAY] * 2]),
    "extract_sparse_work_size": (_INTEGER, [*[_ARRAY] * 3, *[_INTEGER] * 3]),
    "extract_sparse": (None, [*[_ARRAY] * 4, *[_INTEGER] * 3, *[_ARRAY] * 3]),
}


def library() -> ctypes.CDLL | None:
    """The fastest compiled library that this processor runs; None without one.

    Compiled libraries that cannot be used give a `KernelsWarning`, once in a process.
    """
    return _loaded()[0]


def library_name() -> str | None:
    """Name of the loaded library, such as "libkernels_x86_64_v3"; None if NumPy does the work."""
    loaded = library()
    return None if loaded is None else Path(loaded._name).stem


def multiplies_bfloat16() -> bool:
    """Whether the matcher's attention layers multiply in bfloat16.

    They do where the processor has instructions for it (AVX512-BF16), unless `FEATHERGLUE_BF16=0`
    is in the environment.
    """
    loaded = library()
    return (
        loaded is not None
        and os.environ.get("FEATHERGLUE_BF16") != "0"
        and bool(loaded.has_bfloat16())
    )


def kernels_name() -> str:
    """The loaded library and its products, such as "libkernels_x86_64_v3, bfloat16"; "" if none."""
    return ", ".join([library_name() or "", *(["bfloat16"] if multiplies_bfloat16() else [])])


def missing_reason() -> str:
    """Why no library is loaded, such as "not compiled", and what helps; "" if one is loaded."""
    return _loaded()[1]


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The library, or why there is none."""
    if os.environ.get("FEATHERGLUE_NATIVE") == "0":
        return None, "switched off by FEATHERGLUE_NATIVE=0"
    plain, reason = _open("libkernels")
    if plain is not None and plain.has_x86_64_v3():
        fast, reason = _open("libkernels_x86_64_v3")
        plain = fast or plain
    if reason and reason != _NOT_COMPILED:
        warnings.warn(f"the compiled kernels are {reason}", KernelsWarning, stacklevel=4)
    return (plain, "") if plain is not None else (None, reason)


def pointer(array: NDArray[Any]) -> int:
    """Address of the first element of a C-contiguous array, which must outlive the call."""
    return int(array.__array_interface__["data"][0])


def _open(name: str) -> tuple[ctypes.CDLL | None, str]:
    """A library, or why it cannot be used."""
    path = _FOLDER / f"{name}.so"
    if not path.exists():
        return None, _NOT_COMPILED
    try:
        loaded = ctypes.CDLL(str(path))
        for function, (result, arguments) in _SIGNATURES.items():
            kernel = getattr(loaded, function)
            kernel.restype, kernel.argtypes = result, arguments
    except OSError:
        return None, f"made for another machine; {_REMEDY}"
    except AttributeError:
        return None, f"older than their sources; {_REMEDY}"
    if loaded.source_hash() != _source_hash():
        return None, f"older than their sources; {_REMEDY}"
    return loaded, ""


@cache
def _source_hash() -> int:
    paths = sorted((*_FOLDER.glob("*.c"), *_FOLDER.glob("*.h")))
    return zlib.crc32(b"".join(path.read_bytes() for path in paths))

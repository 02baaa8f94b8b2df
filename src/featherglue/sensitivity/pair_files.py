"""The file `pairs.npz` of a scan: the scores of each pair for each change.

`changes` holds the UTF-8 bytes of a JSON list of [layer, method, level] for R changes, `states`
that of S states, and `codes` (R, S, 3, P) uint16 the codes of `PairScores`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError
from featherglue.io.files import write_npz
from featherglue.io.npz import read_npz
from featherglue.sensitivity.pair_scores import PairScores

Key = tuple[str, str, float]  # layer, method, level
Pairs = Mapping[str, PairScores]  # by state


def write_pairs(path: str | os.PathLike[str], pairs: Mapping[Key, Pairs]) -> None:
    """Write the scores of each pair atomically. All changes have the same states.

    Raises:
        OutputError: the file cannot be written.
    """
    states = sorted({state for scores in pairs.values() for state in scores})
    codes = [[scores[state].encode() for state in states] for scores in pairs.values()]
    arrays: dict[str, NDArray[Any]] = {
        "changes": _json_bytes(list(pairs)),
        "states": _json_bytes(states),
    }
    write_npz(path, arrays | {"codes": np.array(codes, np.uint16)})


def read_pairs(path: str | os.PathLike[str]) -> dict[Key, Pairs]:
    """Return the scores of each pair by change.

    Raises:
        StoredFileError: the file cannot be read.
        UsageError: the file has wrong contents.
    """
    arrays = read_npz(path)
    try:
        codes = arrays["codes"]
        states = _parse(arrays["states"])
        keys = [
            (str(layer), str(method), float(level))
            for layer, method, level in _parse(arrays["changes"])
        ]
        if codes.dtype != np.uint16 or codes.shape[:3] != (len(keys), len(states), 3):
            raise ValueError("its arrays have wrong shapes")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path}: damaged ({error}); remove it to scan without it") from None
    return {
        key: {state: PairScores.decode(code) for state, code in zip(states, row, strict=True)}
        for key, row in zip(keys, codes, strict=True)
    }


def _json_bytes(data: Any) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(data).encode(), np.uint8)


def _parse(data: NDArray[np.uint8]) -> list[Any]:
    parsed = json.loads(data.tobytes())
    if not isinstance(parsed, list):
        raise ValueError("a list is missing")
    return parsed

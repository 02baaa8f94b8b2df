"""Lists of image pairs in SuperGlue's format: `pathA pathB [rotA rotB [K0×9 K1×9 T_0to1×16]]`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import PairListError
from featherglue.io.lines import read_fields

Matrix = NDArray[np.float64]
_NUM_TOKENS = (2, 4, 38)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """A line of a pair list.

    Attributes:
        name0, name1: paths as written in the list.
        rotation0, rotation1: number of counter-clockwise quarter turns (np.rot90) that are applied
            to the images first, 0 to 3.
        K0, K1: (3, 3) float64 intrinsics in px; None if the line has none.
        T_0to1: (4, 4) float64 pose; None if the line has none.
        line: line number, from 1.
    """

    name0: str
    name1: str
    rotation0: int = 0
    rotation1: int = 0
    K0: Matrix | None = None
    K1: Matrix | None = None
    T_0to1: Matrix | None = None
    line: int = 0


def read_pairs(path: str | os.PathLike[str] | BinaryIO) -> list[Pair]:
    """Read a pair list. Empty lines and comments, which start with #, are ignored.

    See `io.lines` for names with spaces, for CSV and for encodings.

    Args:
        path: the file, or a binary stream.

    Raises:
        PairListError: the file is unreadable or has no pairs, or a line is malformed.
    """
    name = path if isinstance(path, (str, os.PathLike)) else getattr(path, "name", "input")
    pairs = [
        _parse(fields, f"{name}, line {number}", number)
        for number, fields in read_fields(path, _fault)
    ]
    if not pairs:
        raise PairListError(f"{name}: the list has no pairs")
    return pairs


def _fault(fields: Sequence[str]) -> str:
    """What is wrong with the fields of a line, or ""."""
    if len(fields) not in _NUM_TOKENS:
        return (
            f"{len(fields)} tokens; a pair must have 2 (paths), 4 (with rotations) or 38 "
            "(with K0, K1, T_0to1); quote paths that contain spaces"
        )
    if not fields[0] or not fields[1]:
        return "an empty path"
    try:
        rotations = [int(token) for token in fields[2:4]]
        numbers = [float(token) for token in fields[4:]]
    except ValueError as error:
        return str(error)[:200]
    if not all(rotation in (0, 1, 2, 3) for rotation in rotations):
        return f"rotations must be 0, 1, 2 or 3, not {str(rotations)[:50]}"
    if not np.isfinite(numbers).all():
        return "all numbers must be finite"
    return ""


def _parse(fields: Sequence[str], where: str, number: int) -> Pair:
    rotations = [int(token) for token in fields[2:4]] or [0, 0]
    numbers = np.array([float(token) for token in fields[4:]])
    pair = Pair(
        name0=fields[0],
        name1=fields[1],
        rotation0=rotations[0],
        rotation1=rotations[1],
        K0=numbers[:9].reshape(3, 3) if len(numbers) else None,
        K1=numbers[9:18].reshape(3, 3) if len(numbers) else None,
        T_0to1=numbers[18:].reshape(4, 4) if len(numbers) else None,
        line=number,
    )
    for name in ("K0", "K1"):
        K = getattr(pair, name)
        with np.errstate(all="ignore"):
            # The comparison is False for NaN, the determinant of numbers that are too large.
            if K is not None and not 1e-12 <= abs(np.linalg.det(K)) < np.inf:
                raise PairListError(f"{where}: {name} is singular")
    return pair

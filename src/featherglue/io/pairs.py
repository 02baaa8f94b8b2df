"""Lists of image pairs in SuperGlue's format: `pathA pathB [rotA rotB [K0×9 K1×9 T_0to1×16]]`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import PairListError

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


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Read a pair list. Empty lines and lines that start with # are ignored.

    Raises:
        PairListError: the file is unreadable or has no pairs, or a line is malformed.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise PairListError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PairListError(f"{path}: cannot be read as text ({error})") from None
    pairs = [
        _parse(line.split(), f"{path}, line {number}", number)
        for number, line in enumerate(text.splitlines(), 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not pairs:
        raise PairListError(f"{path}: the list has no pairs")
    return pairs


def _parse(tokens: list[str], where: str, number: int) -> Pair:
    if len(tokens) not in _NUM_TOKENS:
        raise PairListError(
            f"{where}: {len(tokens)} tokens; a pair must have 2 (paths), 4 (with rotations) or 38 "
            "(with K0, K1, T_0to1)"
        )
    try:
        rotations = [int(token) for token in tokens[2:4]] or [0, 0]
        numbers = np.array([float(token) for token in tokens[4:]])
    except ValueError as error:
        raise PairListError(f"{where}: {error}") from None
    if not all(rotation in (0, 1, 2, 3) for rotation in rotations):
        raise PairListError(f"{where}: rotations must be 0, 1, 2 or 3, not {rotations}")
    if not np.isfinite(numbers).all():
        raise PairListError(f"{where}: all numbers must be finite")
    pair = Pair(
        name0=tokens[0],
        name1=tokens[1],
        rotation0=rotations[0],
        rotation1=rotations[1],
        K0=numbers[:9].reshape(3, 3) if len(numbers) else None,
        K1=numbers[9:18].reshape(3, 3) if len(numbers) else None,
        T_0to1=numbers[18:].reshape(4, 4) if len(numbers) else None,
        line=number,
    )
    for name in ("K0", "K1"):
        K = getattr(pair, name)
        if K is not None and abs(np.linalg.det(K)) < 1e-12:
            raise PairListError(f"{where}: {name} is singular")
    return pair

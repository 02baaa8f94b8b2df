"""What to evaluate on: lists and folders read as pairs of images with a known relation.

Everything malformed is an error that names the file and the line, before any image is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import HomographyRange, sample_homography
from featherglue.errors import ImageError, PairListError
from featherglue.io.image import list_images
from featherglue.io.pairs import read_pairs

Matrix = NDArray[np.float64]
PathLike = str | os.PathLike[str]
HPATCHES_IMAGES = range(2, 7)
_SINGULAR = 1e-9
_ROTATION_TOLERANCE = 0.05


@dataclass(frozen=True, kw_only=True, eq=False)
class HomographyPair:
    """Two images related by a homography.

    Attributes:
        index: place in the list, from 0. name: for tables, unique in the list.
        path0, path1: the images; path1 is None where the second is the first one, warped.
        H: (3, 3), maps pixels of image 0 to image 1.
        group: part of the suite that the pair belongs to, or "".
    """

    index: int
    name: str
    path0: Path
    path1: Path | None
    H: Matrix
    group: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class PosePair:
    """Two images from calibrated cameras at known poses.

    Attributes:
        index, name, group: as in `HomographyPair`.
        path0, path1: the images; rotation0, rotation1: how often np.rot90 turns each.
        K0, K1: (3, 3) intrinsics, for pixel centres at whole numbers, before that turn.
        T_0to1: (4, 4), likewise; the scale of its translation is arbitrary.
    """

    index: int
    name: str
    path0: Path
    path1: Path
    rotation0: int
    rotation1: int
    K0: Matrix
    K1: Matrix
    T_0to1: Matrix
    group: str = ""


def read_homography_pairs(
    folder: PathLike, pair_file: PathLike, size: tuple[int, int]
) -> list[HomographyPair]:
    """Lines `image h00 h01 … h22`, H for images of `size` (width, height).

    Empty lines and those that start with # are passed over.

    Raises:
        PairListError: the list is unreadable, empty, or has a malformed line.
        ImageError: no such folder.
    """
    _check_folder(Path(folder))
    tasks: list[HomographyPair] = []
    for number, line in enumerate(_lines(Path(pair_file)), 1):
        tokens = line.split()
        if not tokens or tokens[0].startswith("#"):
            continue
        where = f"{pair_file}, line {number}"
        if len(tokens) != 10:
            raise PairListError(
                f"{where}: {len(tokens)} tokens; a line is an image and the 9 numbers of H, "
                "separated by spaces"
            )
        H = _homography(tokens[1:], where, size)
        tasks.append(
            HomographyPair(
                index=len(tasks), name=tokens[0], path0=Path(folder) / tokens[0], path1=None, H=H
            )
        )
    if not tasks:
        raise PairListError(f"{pair_file}: no homographies in it")
    return tasks


def draw_homography_pairs(
    folder: PathLike, size: tuple[int, int], seed: int
) -> list[HomographyPair]:
    """Every image of a folder with a homography drawn from the seed and its place in the folder.

    Raises:
        ImageError: no such folder, or no image in it.
    """
    limits = HomographyRange()
    return [
        HomographyPair(
            index=i,
            name=path.name,
            path0=path,
            path1=None,
            # The third number keeps this stream apart from that of the photometric change.
            H=sample_homography(np.random.default_rng((seed, i, 1)), size, limits),
        )
        for i, path in enumerate(list_images(folder))
    ]


def read_hpatches_pairs(folder: PathLike) -> list[HomographyPair]:
    """The layout of HPatches' full sequences: `i_*` and `v_*`, `1.ppm` … `6.ppm`, `H_1_2` ….

    Raises:
        ImageError: no such folder, or no sequence in it.
        PairListError: an `H_1_k` is missing or malformed.
    """
    root = Path(folder)
    groups = {"i": "illumination", "v": "viewpoint"}
    _check_folder(root)
    sequences = sorted(
        path for path in root.iterdir() if path.is_dir() and path.name[:2] in ("i_", "v_")
    )
    if not sequences:
        raise ImageError(f"{root}: no sequences here; HPatches has folders i_… and v_…")
    tasks: list[HomographyPair] = []
    for sequence in sequences:
        for k in HPATCHES_IMAGES:
            tasks.append(
                HomographyPair(
                    index=len(tasks),
                    name=f"{sequence.name}/{k}",
                    path0=sequence / "1.ppm",
                    path1=sequence / f"{k}.ppm",
                    H=_read_homography(sequence / f"H_1_{k}"),
                    group=groups[sequence.name[0]],
                )
            )
    return tasks


def read_pose_pairs(folder: PathLike, pair_file: PathLike) -> list[PosePair]:
    """SuperGlue's pair lists with all 38 tokens: `A B rotA rotB K0×9 K1×9 T_0to1×16`.

    Raises:
        PairListError: as `pairs.read_pairs`; a line without intrinsics and pose, or whose
            rotation is none.
        ImageError: no such folder.
    """
    _check_folder(Path(folder))
    tasks = []
    for index, pair in enumerate(read_pairs(pair_file)):
        where = f"{pair_file}, line {pair.line}"
        if pair.K0 is None or pair.K1 is None or pair.T_0to1 is None:
            raise PairListError(
                f"{where}: no intrinsics and pose; 38 tokens are needed to evaluate "
                "(paths, rotations, K0, K1, T_0to1)"
            )
        R = pair.T_0to1[:3, :3]
        if np.abs(R @ R.T - np.eye(3)).max() > _ROTATION_TOLERANCE or np.linalg.det(R) < 0:
            raise PairListError(f"{where}: the left 3×3 of T_0to1 is not a rotation")
        tasks.append(
            PosePair(
                index=index,
                name=f"{pair.name0} {pair.name1}",
                path0=Path(folder) / pair.name0,
                path1=Path(folder) / pair.name1,
                rotation0=pair.rotation0,
                rotation1=pair.rotation1,
                K0=pair.K0,
                K1=pair.K1,
                T_0to1=pair.T_0to1,
            )
        )
    return tasks


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ImageError(f"{folder}: no such folder")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise PairListError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise PairListError(f"{path}: cannot be read as text ({error})") from None


def _read_homography(path: Path) -> Matrix:
    """A file of three lines with three numbers each."""
    rows = [(number, line.split()) for number, line in enumerate(_lines(path), 1) if line.strip()]
    for number, tokens in rows:
        if len(tokens) != 3:
            raise PairListError(f"{path}, line {number}: {len(tokens)} numbers; H has 3 in a line")
        _numbers(tokens, f"{path}, line {number}")
    if len(rows) != 3:
        raise PairListError(f"{path}, line {len(rows)}: {len(rows)} lines with numbers; H has 3")
    return _homography([token for _, tokens in rows for token in tokens], str(path), (1000, 1000))


def _homography(tokens: list[str], where: str, size: tuple[int, int]) -> Matrix:
    H = np.array(_numbers(tokens, where)).reshape(3, 3)
    # Singularity is judged where coordinates are of the order of 1.
    unit = np.diag([size[0], size[1], 1.0])
    scaled = np.linalg.inv(unit) @ H @ unit
    norm = float(np.linalg.norm(scaled))
    if norm == 0 or abs(np.linalg.det(scaled / norm)) < _SINGULAR:
        raise PairListError(f"{where}: H is singular")
    return H


def _numbers(tokens: list[str], where: str) -> list[float]:
    try:
        values = [float(token) for token in tokens]
    except ValueError as error:
        raise PairListError(f"{where}: {error}") from None
    if not np.isfinite(values).all():
        raise PairListError(f"{where}: a number is not finite")
    return values

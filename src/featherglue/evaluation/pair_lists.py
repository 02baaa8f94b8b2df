"""Pairs of images with a known relation, read from lists and folders.

Errors name the file and the line; they are raised before any image is read.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import HomographyRange, sample_homography
from featherglue.errors import ImageError, PairListError
from featherglue.io.image import check_folder, list_images
from featherglue.io.lines import read_fields, read_text
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
        index: position in the list, from 0.
        name: name in tables, unique in the list.
        path0: first image.
        path1: second image; None if it is the first image, warped by H.
        H: (3, 3) float64, maps (x, y, 1) pixels of image 0 to image 1.
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
        index: position in the list, from 0.
        name: name in tables, unique in the list.
        path0, path1: the images.
        rotation0, rotation1: number of quarter turns by which np.rot90 rotates each image.
        K0, K1: (3, 3) float64 intrinsics of the images before rotation; the center of the
            top-left pixel is (0, 0).
        T_0to1: (4, 4) float64 pose from camera 0 to camera 1, before rotation. The scale of its
            translation is arbitrary.
        group: part of the suite that the pair belongs to, or "".
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
    """Read a list of lines `image h00 h01 … h22`. The second image is the first, warped by H.

    Empty lines and comments (#) are ignored.

    Args:
        folder: folder that the images' paths start from.
        pair_file: the list.
        size: (width, height) in pixels that every H is for.

    Raises:
        PairListError: the list is unreadable, empty, or has a malformed line.
        ImageError: the folder does not exist.
    """
    check_folder(Path(folder))
    pairs: list[HomographyPair] = []
    for number, tokens in read_fields(pair_file, _homography_fault):
        H = _homography(tokens[1:], f"{pair_file}, line {number}", size)
        pairs.append(
            HomographyPair(
                index=len(pairs), name=tokens[0], path0=Path(folder) / tokens[0], path1=None, H=H
            )
        )
    if not pairs:
        raise PairListError(f"{pair_file}: the list holds no homographies")
    return pairs


def draw_homography_pairs(
    folder: PathLike, size: tuple[int, int], seed: int
) -> list[HomographyPair]:
    """Pair every image of a folder with its copy under a random homography.

    Args:
        folder: folder of the images.
        size: (width, height) in pixels that the homographies are for.
        seed: seed; the homography of an image also depends on its position in the folder.

    Raises:
        ImageError: the folder does not exist or holds no images.
    """
    limits = HomographyRange()
    return [
        HomographyPair(
            index=i,
            name=path.name,
            path0=path,
            path1=None,
            # The third number separates these draws from those of the photometric change.
            H=sample_homography(np.random.default_rng((seed, i, 1)), size, limits),
        )
        for i, path in enumerate(list_images(folder))
    ]


def read_hpatches_pairs(folder: PathLike) -> list[HomographyPair]:
    """Read the HPatches layout: sequences `i_*` and `v_*` with `1.ppm` … `6.ppm`, `H_1_2` ….

    Raises:
        ImageError: the folder does not exist or holds no sequences.
        PairListError: a file `H_1_k` is missing or malformed.
    """
    root = Path(folder)
    groups = {"i": "illumination", "v": "viewpoint"}
    check_folder(root)
    sequences = sorted(
        path for path in root.iterdir() if path.is_dir() and path.name[:2] in ("i_", "v_")
    )
    if not sequences:
        raise ImageError(f"{root}: no HPatches sequences here; they are folders i_… and v_…")
    pairs: list[HomographyPair] = []
    for sequence in sequences:
        for k in HPATCHES_IMAGES:
            pairs.append(
                HomographyPair(
                    index=len(pairs),
                    name=f"{sequence.name}/{k}",
                    path0=sequence / "1.ppm",
                    path1=sequence / f"{k}.ppm",
                    H=_read_homography(sequence / f"H_1_{k}"),
                    group=groups[sequence.name[0]],
                )
            )
    return pairs


def read_pose_pairs(folder: PathLike, pair_file: PathLike) -> list[PosePair]:
    """Read a SuperGlue pair list of lines `A B rotA rotB K0×9 K1×9 T_0to1×16` (38 tokens).

    Raises:
        PairListError: the list is malformed, a line has no intrinsics and pose, or the left 3×3
            of its T_0to1 is not a rotation.
        ImageError: the folder does not exist.
    """
    check_folder(Path(folder))
    pairs = []
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
        pairs.append(
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
    return pairs


def _homography_fault(fields: Sequence[str]) -> str:
    """What is wrong with the fields of a line of a list of homographies, or ""."""
    if len(fields) == 10:
        return ""
    return (
        f"{len(fields)} tokens; a line is an image and the 9 numbers of H, separated by spaces; "
        "quote paths that contain spaces"
    )


def _read_homography(path: Path) -> Matrix:
    """Read a file of three lines with three numbers each."""
    lines = enumerate(read_text(path).splitlines(), 1)
    rows = [(number, line.split()) for number, line in lines if line.strip()]
    for number, tokens in rows:
        if len(tokens) != 3:
            raise PairListError(f"{path}, line {number}: {len(tokens)} numbers; H has 3 in a line")
        _numbers(tokens, f"{path}, line {number}")
    if len(rows) != 3:
        raise PairListError(f"{path}, line {len(rows)}: {len(rows)} lines with numbers; H has 3")
    return _homography([token for _, tokens in rows for token in tokens], str(path), (1000, 1000))


def _homography(tokens: list[str], where: str, size: tuple[int, int]) -> Matrix:
    H = np.array(_numbers(tokens, where)).reshape(3, 3)
    # The determinant is only meaningful for coordinates of the order of 1.
    unit = np.diag([size[0], size[1], 1.0])
    with np.errstate(all="ignore"):
        scaled = np.linalg.inv(unit) @ H @ unit
        norm = float(np.linalg.norm(scaled))
        # The comparison is False for NaN, the result of numbers that are too large.
        invertible = 0 < norm < np.inf and abs(np.linalg.det(scaled / norm)) >= _SINGULAR
    if not invertible:
        raise PairListError(f"{where}: H is singular")
    return H


def _numbers(tokens: list[str], where: str) -> list[float]:
    try:
        values = [float(token) for token in tokens]
    except ValueError as error:
        raise PairListError(f"{where}: {str(error)[:200]}") from None
    if not np.isfinite(values).all():
        raise PairListError(f"{where}: every number must be finite")
    return values

"""Matching of many image pairs, with one match file (.npz) for each pair.

A repeated run matches only the pairs without a result. An unreadable image fails only its pairs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from featherglue.collection.photo_frames import mask_path, read_masked
from featherglue.drawing import draw_matches
from featherglue.errors import (
    ENVIRONMENT_FAULTS,
    FeatherglueError,
    ImageError,
    OutputError,
    StoredFileError,
    StoredFileWarning,
    UsageError,
)
from featherglue.fingerprint import code_fingerprint, file_state, fingerprint
from featherglue.io.files import write_image
from featherglue.io.image import list_images, read_gray
from featherglue.io.npz import read_npz
from featherglue.io.pairs import Pair
from featherglue.session import Session
from featherglue.types import Features, MatchResult

_MAX_STEM_BYTES = 100  # file systems allow 255 bytes for a name
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f\x7f\\:*?"<>|]')
# Maximum size of the feature store; the latest two images are always in it.
_MAX_STORED_BYTES, _MAX_STORED_IMAGES = 256_000_000, 64


@dataclass(frozen=True, kw_only=True)
class PairOutcome:
    """The outcome of one pair.

    Attributes:
        pair: the pair.
        output: path of the npz file.
        result: the matches; None if the file was up to date or the pair failed.
        error: why the pair failed, or "".
        picture: path of the picture of the matches, if it was drawn.
    """

    pair: Pair
    output: Path
    result: MatchResult | None = None
    error: str = ""
    picture: Path | None = None


def sequence_pairs(folder: str | os.PathLike[str]) -> list[Pair]:
    """Pair each image of a folder with the next one, in the order of their names.

    Raises:
        ImageError: the folder does not exist or holds fewer than two images.
    """
    names = [path.name for path in list_images(folder)]
    if len(names) < 2:
        raise ImageError(f"{folder}: holds one image; a pair needs two")
    return [
        Pair(name0=first, name1=second, line=i + 1)
        for i, (first, second) in enumerate(pairwise(names))
    ]


def output_names(pairs: Sequence[Pair]) -> list[str]:
    """File name `{stem0}_{stem1}_matches.npz` for each pair.

    The stem of `a/b.jpg` is `a-b`; that of a long name ends with a fingerprint. Different
    pairs whose names would be equal (other suffixes or rotations) are numbered. A pair that is
    listed twice has one name.
    """
    taken: dict[str, tuple[str, str, int, int]] = {}
    names = []
    for pair in pairs:
        key = (pair.name0, pair.name1, pair.rotation0, pair.rotation1)
        stems = f"{_stem(pair.name0)}_{_stem(pair.name1)}"
        name, number = f"{stems}_matches.npz", 2
        while taken.setdefault(name, key) != key:
            name, number = f"{stems}-{number}_matches.npz", number + 1
        names.append(name)
    return names


def _stem(name: str) -> str:
    """A file name for an image name: at most 100 bytes, of characters that every system allows."""
    path = Path(name)
    stem = (path.with_suffix("") if path.name else path).as_posix().strip("./").replace("/", "-")
    stem = _NOT_IN_NAMES.sub("-", stem) or "image"
    if len(os.fsencode(stem)) <= _MAX_STEM_BYTES:
        return stem
    start = os.fsencode(stem)[: _MAX_STEM_BYTES - 17].decode(errors="ignore")
    return f"{start}-{fingerprint(stem)}"


def match_pairs(
    session: Session,
    pairs: Iterable[Pair],
    input_folder: str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    *,
    masks: str | os.PathLike[str] | None = None,
    pictures: bool = True,
    overwrite: bool = False,
) -> Iterator[PairOutcome]:
    """Match pairs and write an npz file (see `MatchResult.save`) and a picture for each.

    An interrupted run resumes: a pair is skipped if its npz file is up to date, and its picture
    exists if `pictures`. A file is up to date if it was made from the same image files with the
    same settings, weights and code. A pair with an unreadable image fails; the others continue.

    Args:
        session: extracts and matches.
        pairs: the pairs.
        input_folder: folder of the images; their names are relative to it.
        output_folder: folder of the npz files and pictures.
        masks: folder of masks by COLMAP's convention, see `extraction.extract_features`.
        pictures: whether to draw the matches of each pair.
        overwrite: match again even if the file is up to date.

    Yields:
        The outcome of each pair, in order.

    Raises:
        OutputError: the output folder cannot be written.
        ResourceError: the machine lacks memory or another resource.
        UsageError: the output folder is the folder of the images.
    """
    source, target = Path(input_folder), Path(output_folder)
    if target.resolve() == source.resolve():
        raise UsageError(
            "`output_folder` is the folder of the images; choose another one, as the pictures "
            "of matches would count as images"
        )
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot be created ({error.strerror})") from None
    mask_folder = None if masks is None else Path(masks)
    store = _FeatureStore(session, source, mask_folder)
    listed = list(pairs)
    for pair, name in zip(listed, output_names(listed), strict=True):
        output = target / name
        expected = _pair_fingerprint(session, source, mask_folder, pair)
        picture = output.with_suffix(".png") if pictures else None
        drawn = picture is None or picture.is_file()
        if drawn and not overwrite and _is_up_to_date(output, expected):
            yield PairOutcome(pair=pair, output=output)
            continue
        try:
            features0 = store.get(pair.name0, pair.rotation0)
            features1 = store.get(pair.name1, pair.rotation1)
            result = session.match(features0, features1)
        except ENVIRONMENT_FAULTS:
            raise
        except FeatherglueError as error:
            yield PairOutcome(pair=pair, output=output, error=str(error))
            continue
        if picture is not None:
            write_image(picture, draw_matches(result))
        result.save(output, {"fingerprint": np.array(expected)})
        yield PairOutcome(pair=pair, output=output, result=result, picture=picture)


def _pair_fingerprint(session: Session, folder: Path, masks: Path | None, pair: Pair) -> str:
    """Fingerprint of everything that determines the matches of a pair, with the image files."""
    names = () if masks is None else (pair.name0, pair.name1)
    return fingerprint(
        *(file_state(mask_path(masks, name)) for name in names if masks is not None),
        file_state(folder / pair.name0),
        file_state(folder / pair.name1),
        [pair.rotation0, pair.rotation1],
        session.fingerprint(),
        code_fingerprint(),
    )


def _is_up_to_date(output: Path, expected: str) -> bool:
    """Whether the file holds the matches with this fingerprint, without damage."""
    if not output.is_file():
        return False
    try:
        arrays = read_npz(output)
    except StoredFileError as error:
        warnings.warn(f"{error}; its pair is matched again", StoredFileWarning, stacklevel=3)
        return False
    return "fingerprint" in arrays and str(arrays["fingerprint"]) == expected


class _FeatureStore:
    """A cache of the features of the latest images; an image of many pairs is extracted once."""

    def __init__(self, session: Session, folder: Path, masks: Path | None) -> None:
        self._session, self._folder, self._masks = session, folder, masks
        self._stored: OrderedDict[tuple[str, int], Features | ImageError] = OrderedDict()

    def get(self, name: str, rotation: int) -> Features:
        key = (name, rotation)
        if key not in self._stored:
            self._stored[key] = self._extract(name, rotation)
            while len(self._stored) > 2 and (
                len(self._stored) > _MAX_STORED_IMAGES or self._bytes() > _MAX_STORED_BYTES
            ):
                self._stored.popitem(last=False)
        self._stored.move_to_end(key)
        stored = self._stored[key]
        if isinstance(stored, ImageError):
            raise stored
        return stored

    def _bytes(self) -> int:
        images = [f.image for f in self._stored.values() if isinstance(f, Features)]
        return sum(image.nbytes for image in images if image is not None)

    def _extract(self, name: str, rotation: int) -> Features | ImageError:
        mask = None
        try:
            if self._masks is None:
                image = read_gray(self._folder / name)
            else:
                image, mask = read_masked(self._folder / name, mask_path(self._masks, name))
        except ImageError as error:
            return error
        turned = np.ascontiguousarray(np.rot90(image, rotation))
        if mask is None:
            return self._session.extract(turned)
        turned_mask = np.ascontiguousarray(np.rot90(mask, rotation))
        return self._session.extract(turned, mask=turned_mask)

"""Many pairs of images: matched one after the other, resumable, one bad image harming nobody."""

from __future__ import annotations

import os
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.drawing import draw_matches
from featherglue.errors import FeatherglueError, ImageError, OutputError
from featherglue.io.files import write_image
from featherglue.io.image import list_images, read_grey
from featherglue.io.pairs import Pair
from featherglue.session import Session
from featherglue.types import Features, MatchResult

# What is kept of images for later pairs: the latest two, and more while their pixels fit.
_KEPT_BYTES, _KEPT_FEATURES = 256_000_000, 64


@dataclass(frozen=True, kw_only=True)
class PairOutcome:
    """What became of one pair.

    Attributes:
        pair: as it was asked for. output: the npz file.
        result: the matches; None where they were there already or the pair failed.
        error: why it failed, or "".
        picture: where the matches were drawn, or None.
    """

    pair: Pair
    output: Path
    result: MatchResult | None = None
    error: str = ""
    picture: Path | None = None


def sequence_pairs(folder: str | os.PathLike[str]) -> list[Pair]:
    """Each image of a folder, in the order of names, with the next one.

    Raises:
        ImageError: no such folder, or fewer than two images in it.
    """
    names = [path.name for path in list_images(folder)]
    if len(names) < 2:
        raise ImageError(f"{folder}: one image only; two are needed for a pair")
    return [
        Pair(name0=first, name1=second, line=i + 1)
        for i, (first, second) in enumerate(pairwise(names))
    ]


def output_names(pairs: Sequence[Pair]) -> list[str]:
    """`{stem0}_{stem1}_matches.npz` for each pair; folders become part of the stem, as `a-b`.

    Different pairs of a list get different names: where two would be alike (other suffixes or
    rotations), a number follows the stems. A pair that is listed twice keeps its name.
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
    return Path(name).with_suffix("").as_posix().strip("./").replace("/", "-")


def match_pairs(
    session: Session,
    pairs: Iterable[Pair],
    input_folder: str | os.PathLike[str],
    output_folder: str | os.PathLike[str],
    *,
    pictures: bool = True,
    overwrite: bool = False,
) -> Iterator[PairOutcome]:
    """Match pairs and write an npz (see `MatchResult.save`) and a picture for each.

    A pair whose npz is there already, of the same session, and its picture if pictures are wanted,
    is passed over, so an interrupted run goes on where it stopped. A pair with an image that cannot
    be read is reported in its outcome; the others go on.

    Raises:
        OutputError: the output folder cannot be written.
    """
    source, target = Path(input_folder), Path(output_folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{target}: cannot be made ({error.strerror})") from None
    store = _FeatureStore(session, source)
    listed = list(pairs)
    for pair, name in zip(listed, output_names(listed), strict=True):
        output = target / name
        mark = _mark(session, pair)
        picture = output.with_suffix(".png") if pictures else None
        drawn = picture is None or picture.is_file()
        if drawn and not overwrite and _is_done(output, mark):
            yield PairOutcome(pair=pair, output=output)
            continue
        try:
            features0 = store.get(pair.name0, pair.rotation0)
            features1 = store.get(pair.name1, pair.rotation1)
            result = session.match(features0, features1)
        except OutputError:
            raise
        except FeatherglueError as error:
            yield PairOutcome(pair=pair, output=output, error=str(error))
            continue
        if picture is not None:
            write_image(picture, draw_matches(result))
        result.save(output, {"made_from": mark})
        yield PairOutcome(pair=pair, output=output, result=result, picture=picture)


def _mark(session: Session, pair: Pair) -> NDArray[np.str_]:
    """What an npz keeps to tell which pair and which session it is of."""
    names = [pair.name0, pair.name1, str(pair.rotation0), str(pair.rotation1)]
    return np.array([*names, session.fingerprint()])


def _is_done(output: Path, mark: NDArray[np.str_]) -> bool:
    """Whether the file holds the matches of this very pair by this very session."""
    if not output.is_file():
        return False
    try:
        with np.load(output) as arrays:
            return "made_from" in arrays and np.array_equal(arrays["made_from"], mark)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        return False


class _FeatureStore:
    """The features of the images used last, so that one in many pairs is extracted once."""

    def __init__(self, session: Session, folder: Path) -> None:
        self._session, self._folder = session, folder
        self._kept: OrderedDict[tuple[str, int], Features | ImageError] = OrderedDict()

    def get(self, name: str, rotation: int) -> Features:
        key = (name, rotation)
        if key not in self._kept:
            self._kept[key] = self._extract(name, rotation)
            while len(self._kept) > 2 and (
                len(self._kept) > _KEPT_FEATURES or self._bytes() > _KEPT_BYTES
            ):
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        kept = self._kept[key]
        if isinstance(kept, ImageError):
            raise kept
        return kept

    def _bytes(self) -> int:
        images = [f.image for f in self._kept.values() if isinstance(f, Features)]
        return sum(image.nbytes for image in images if image is not None)

    def _extract(self, name: str, rotation: int) -> Features | ImageError:
        try:
            image = read_grey(self._folder / name)
        except ImageError as error:
            return error
        return self._session.extract(np.ascontiguousarray(np.rot90(image, rotation)))

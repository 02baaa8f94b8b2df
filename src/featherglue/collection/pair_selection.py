"""The choice of the image pairs to match."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.candidate_votes import Ranking
from featherglue.collection.colmap import CameraOptions, import_images
from featherglue.errors import ConfigError, ImageError, PairListError, UsageError
from featherglue.io.files import atomic_write
from featherglue.io.lines import quote_name
from featherglue.io.pairs import read_pairs
from featherglue.io.pycolmap_ import require_pycolmap

PairMethod = Literal["auto", "exhaustive", "sequential", "retrieval", "spatial", "file"]
NamePair = tuple[str, str]
DEFAULT_OVERLAP, DEFAULT_NUM_NEIGHBORS = 10, 20
MAX_EXHAUSTIVE = 200  # images of which "auto" takes every pair
_LOOP_PERIOD = 10  # images of a sequence, one of which is searched for loops, as in COLMAP
_MAX_DISTANCE = 1e9  # m, between the positions of a pair: only the number of neighbors counts


def choose_pairs(
    method: PairMethod,
    images: str | os.PathLike[str],
    names: Sequence[str],
    *,
    pair_file: str | os.PathLike[str] | None = None,
    overlap: int = DEFAULT_OVERLAP,
    num_neighbors: int = DEFAULT_NUM_NEIGHBORS,
    loop_closure: bool = False,
    similar: Callable[[NDArray[np.int64] | None], Ranking] | None = None,
) -> list[NamePair]:
    """Choose pairs by the name of the method.

    Args:
        method: all pairs, each image with the following ones, with the most similar ones, with the
            nearest ones by GPS, or the pairs of a file. "auto" takes all pairs of up to 200 images,
            and the most similar ones of more.
        images: folder of the images.
        names: names of the images, relative to the folder, in the order of a sequence.
        pair_file: the list of "file".
        overlap: number of following images of "sequential".
        num_neighbors: number of nearest images of "retrieval", "spatial" and of a loop closure.
        loop_closure: add the most similar images to every tenth image of "sequential".
        similar: returns the images that are similar to those in the given rows of `names`, or to
            all for None, see `similar_images`; needed for retrieval.

    Raises:
        UsageError: a value out of bounds, a missing list, or no `similar` for retrieval.
        PairListError, ImageError, MissingExtraError: see the functions below.
    """
    check_choice(method, pair_file, loop_closure)
    if needs_retrieval(method, len(names), loop_closure):
        if similar is None:
            raise UsageError(
                f"`pairs={method!r}` of {len(names)} images needs their features: give "
                "`feature_file`"
            )
        if method != "sequential":
            return retrieval_pairs(names, similar(None), num_neighbors)
        following = sequential_pairs(names, overlap)
        queries = np.arange(0, len(names), _LOOP_PERIOD)
        loops = loop_pairs(names, similar(queries), num_neighbors, overlap)
        return list(dict.fromkeys([*following, *loops]))
    if method == "sequential":
        return sequential_pairs(names, overlap)
    if method == "spatial":
        return spatial_pairs(images, names, num_neighbors)
    if method == "file":
        assert pair_file is not None
        return listed_pairs(pair_file, names)
    return exhaustive_pairs(names)


def needs_retrieval(method: PairMethod, num_images: int, loop_closure: bool) -> bool:
    """Whether a choice of pairs needs the global descriptors of the images."""
    many = method == "auto" and num_images > MAX_EXHAUSTIVE
    return many or method == "retrieval" or (method == "sequential" and loop_closure)


def check_choice(
    method: PairMethod, pair_file: str | os.PathLike[str] | None, loop_closure: bool = False
) -> None:
    """Check the name of the method, and that what else is given has an effect on it.

    Raises:
        ConfigError: it is not.
    """
    if method not in get_args(PairMethod):
        raise ConfigError(f"pairs must be one of {', '.join(get_args(PairMethod))}, not {method!r}")
    if method == "file" and pair_file is None:
        raise ConfigError("`pairs='file'` needs `pair_file`")
    if method != "file" and pair_file is not None:
        raise ConfigError(f"`pair_file` has no effect on `pairs={method!r}`: remove it")
    if method != "sequential" and loop_closure:
        raise ConfigError(f"`loop_closure` has no effect on `pairs={method!r}`: remove it")


def exhaustive_pairs(names: Sequence[str]) -> list[NamePair]:
    """Every pair of images, in the order of the names."""
    return list(itertools.combinations(names, 2))


def sequential_pairs(names: Sequence[str], overlap: int = DEFAULT_OVERLAP) -> list[NamePair]:
    """Pair each image with the following ones, and with those 2^k images later.

    Args:
        names: names of the images, in the order of the sequence.
        overlap: number of following images; also the number of powers of two, as in COLMAP.

    Raises:
        UsageError: `overlap` is less than 1.
    """
    if overlap < 1:
        raise UsageError(f"overlap must be at least 1, not {overlap}")
    steps = sorted({*range(1, overlap + 1), *(2**k for k in range(overlap))})
    return [
        (name, names[i + step])
        for i, name in enumerate(names)
        for step in steps
        if i + step < len(names)
    ]


def retrieval_pairs(
    names: Sequence[str], ranking: Ranking, num_neighbors: int = DEFAULT_NUM_NEIGHBORS
) -> list[NamePair]:
    """Pair images with the most similar ones, each pair once, in the order of the names.

    In each of `num_neighbors` rounds, every image chooses the most similar one among those that it
    has no pair with. So an image can have more pairs: those that others chose.

    Args:
        names: of the images.
        ranking: rows of the images that are similar to an image, the most similar first; see
            `similar_images`.
        num_neighbors: number of images that each image chooses.
    """
    pairs: set[tuple[int, int]] = set()
    waiting = {image: iter(others.tolist()) for image, others in sorted(ranking.items())}
    for _ in range(num_neighbors):
        for image, others in waiting.items():
            for other in others:
                pair = (min(image, other), max(image, other))
                if pair not in pairs:
                    pairs.add(pair)
                    break
    return [(names[first], names[second]) for first, second in sorted(pairs)]


def loop_pairs(
    names: Sequence[str],
    ranking: Ranking,
    num_neighbors: int = DEFAULT_NUM_NEIGHBORS,
    overlap: int = DEFAULT_OVERLAP,
) -> list[NamePair]:
    """Pair every tenth image of a sequence with the most similar ones that do not follow it.

    Args:
        names: in the order of the sequence.
        ranking: see `retrieval_pairs`.
        num_neighbors: number of most similar images.
        overlap: images up to this distance in the sequence are left out.
    """
    pairs: set[tuple[int, int]] = set()
    for image in range(0, len(names), _LOOP_PERIOD):
        others = ranking.get(image, np.zeros(0, np.int64))
        distant = others[np.abs(others - image) > overlap][:num_neighbors].tolist()
        pairs.update((min(image, other), max(image, other)) for other in distant)
    return [(names[first], names[second]) for first, second in sorted(pairs)]


def spatial_pairs(
    images: str | os.PathLike[str],
    names: Sequence[str],
    num_neighbors: int = DEFAULT_NUM_NEIGHBORS,
) -> list[NamePair]:
    """Pair each image with the nearest ones by the GPS positions of the EXIF tags.

    COLMAP reads the positions and finds the neighbors.

    Args:
        images: folder of the images.
        names: names of the images, relative to the folder.
        num_neighbors: number of nearest images.

    Raises:
        MissingExtraError: pycolmap is not installed.
        ImageError: fewer than two images have a position.
    """
    pycolmap = require_pycolmap()
    options = pycolmap.SpatialPairingOptions(
        max_num_neighbors=num_neighbors + 1, max_distance=_MAX_DISTANCE
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "database.db"
        import_images(path, images, names, CameraOptions(mode="per-image"))
        with pycolmap.Database.open(path) as database:
            located = sum(prior.has_position() for prior in database.read_all_pose_priors())
            if located < 2:
                raise ImageError(
                    f"{images}: {located} of {len(names)} images have a GPS position in their "
                    "EXIF tags; choose other `pairs`"
                )
            of_id = {image.image_id: image.name for image in database.read_all_images()}
            found = pycolmap.SpatialPairGenerator(options, database).all_pairs()
    order = {name: i for i, name in enumerate(names)}
    pairs = {
        tuple(sorted((of_id[first], of_id[second]), key=order.__getitem__))
        for first, second in found
    }
    return sorted(pairs, key=lambda pair: (order[pair[0]], order[pair[1]]))


def listed_pairs(path: str | os.PathLike[str], names: Sequence[str]) -> list[NamePair]:
    """The pairs of a list, each once.

    Args:
        path: the list, see `io.pairs`.
        names: names of the images of the collection.

    Raises:
        PairListError: the list is malformed, has an image that the collection lacks, or pairs an
            image with itself.
    """
    known = set(names)
    pairs: dict[NamePair, None] = {}
    for pair in read_pairs(path):
        for name in (pair.name0, pair.name1):
            if name not in known:
                raise PairListError(f"{path}, line {pair.line}: the collection has no {name!r}")
        if pair.name0 == pair.name1:
            raise PairListError(f"{path}, line {pair.line}: pairs {pair.name0!r} with itself")
        if (pair.name1, pair.name0) not in pairs:
            pairs[pair.name0, pair.name1] = None
    return list(pairs)


def write_pairs(path: str | os.PathLike[str], pairs: Sequence[NamePair]) -> None:
    """Write a pair list. Names with spaces are quoted.

    Raises:
        OutputError: the file cannot be written.
    """
    lines = [f"{quote_name(name0)} {quote_name(name1)}\n" for name0, name1 in pairs]
    with atomic_write(path) as file:
        file.write("".join(lines).encode())

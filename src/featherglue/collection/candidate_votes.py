"""Votes of local descriptors: which of the images that look alike show the same place.

A global descriptor of a few hundred values confuses places. The strongest local descriptors of two
images are compared directly. A pair of mutual nearest neighbors with the cosine similarity c adds
(c − 0.4)³ if c exceeds 0.4. Tolias et al. 2013 (To Aggregate or Not to Aggregate) also take a power
of the similarities above a threshold.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.records import FINGERPRINT, Key, Record
from featherglue.collection.resumable import Progress, run_resumable
from featherglue.collection.store import Store
from featherglue.fingerprint import fingerprint
from featherglue.matching.assignment import nearest_neighbors

Float = NDArray[np.float32]
Ranking = Mapping[int, NDArray[np.int64]]  # rows of similar images, by the row of an image
STRONGEST = "strongest"
NUM_STRONGEST = 256  # local descriptors of an image that vote
_STEPS = 127  # of the integers that store a descriptor
_MIN_COSINE, _POWER = 0.4, 3
_MAX_CACHED_BYTES = 256_000_000
_VOTES = "votes"


def strongest_descriptors(
    descriptors: NDArray[Any], scores: NDArray[Any] | None
) -> NDArray[np.int8]:
    """The local descriptors of the keypoints with the highest scores, as they are stored.

    Args:
        descriptors: (N, D), of unit length.
        scores: (N,) of the keypoints; None takes the first ones.

    Returns:
        (M, D) int8, in units of 1/127.
    """
    order = slice(None) if scores is None else np.argsort(-scores.astype(np.float32), kind="stable")
    chosen = descriptors[order][:NUM_STRONGEST].astype(np.float32)
    return np.clip(np.rint(chosen * _STEPS), -_STEPS, _STEPS).astype(np.int8)


def count_votes(descriptors0: NDArray[np.int8], descriptors1: NDArray[np.int8]) -> float:
    """The votes for a pair of images, 0 or more, from their strongest descriptors."""
    unit0, unit1 = _unit(descriptors0), _unit(descriptors1)
    if not len(unit0) or not len(unit1):
        return 0.0
    cosines = nearest_neighbors(unit0, unit1, cosine=_MIN_COSINE)[1]
    return float(((cosines - np.float32(_MIN_COSINE)) ** _POWER).sum())


def _unit(descriptors: NDArray[np.int8]) -> Float:
    floats = descriptors.astype(np.float32)
    lengths = np.sqrt(np.square(floats).sum(1, keepdims=True))
    return np.asarray(floats / np.maximum(lengths, np.float32(1e-6)), np.float32)


@dataclass(frozen=True, kw_only=True)
class VotingTask:
    """The votes for one image with each of its candidates.

    Attributes:
        descriptor_file: the strongest descriptors, see `describe_images`.
        names: of all images.
        candidates: rows of `names` of the candidates, by the name of an image.
    """

    descriptor_file: Path
    names: Sequence[str]
    candidates: Mapping[str, NDArray[np.int32]]

    def open(self) -> Callable[[Key], Record]:
        """See `Task`."""
        reader = _StrongestReader(self.descriptor_file)

        def vote(key: Key) -> Record:
            own = reader.read(key[0])
            others = (self.names[row] for row in self.candidates[key[0]])
            votes = [count_votes(own, reader.read(name)) for name in others]
            return Record(key=key, attributes={}, arrays={_VOTES: np.array(votes, np.float32)})

        return vote


class _StrongestReader:
    """The strongest descriptors of images; a cache."""

    def __init__(self, path: Path) -> None:
        self._store = Store(path)
        self._cached: OrderedDict[str, NDArray[np.int8]] = OrderedDict()
        self._bytes = 0

    def read(self, name: str) -> NDArray[np.int8]:
        if name not in self._cached:
            record = self._store.read((name,), (STRONGEST,), required=STRONGEST)
            self._cached[name] = record.arrays[STRONGEST]
            self._bytes += self._cached[name].nbytes
            while self._bytes > _MAX_CACHED_BYTES:
                self._bytes -= self._cached.popitem(last=False)[1].nbytes
        self._cached.move_to_end(name)
        return self._cached[name]


def rank_candidates(
    descriptor_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    names: Sequence[str],
    candidates: Mapping[int, NDArray[np.int64]],
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Order the candidates of images by their votes. An interrupted run resumes.

    Args:
        descriptor_file: see `describe_images`.
        output: the file of votes to write.
        names: of all images.
        candidates: rows of `names` by the row of an image; negative ones are left out.
        workers, progress: see `describe_images`.

    Returns:
        Rows of the candidates of each image, the one with the most votes first. Of two images, each
        is a candidate of the other if either is in `candidates`.

    Raises:
        StoreError: a file cannot be read.
        OutputError: a file cannot be written.
    """
    pairs = sorted(
        {
            (min(image, other), max(image, other))
            for image, others in candidates.items()
            for other in others.tolist()
            if other >= 0
        }
    )
    if not pairs:
        return {}
    firsts, seconds = np.array(pairs, np.int32).T
    starts = np.flatnonzero(np.diff(firsts, prepend=-1))
    groups = dict(zip(firsts[starts].tolist(), np.split(seconds, starts[1:]), strict=True))
    with Store(descriptor_file) as store:
        attributes, manifest = store.attributes(), store.manifest
    states = [attributes.get((name,), {}).get(FINGERPRINT) for name in names]
    items: dict[Key, str] = {
        (names[image],): fingerprint(states[image], [[names[i], states[i]] for i in others])
        for image, others in groups.items()
    }
    step = run_resumable(
        Path(output),
        {"kind": "votes", "descriptors": manifest},
        items,
        VotingTask(
            descriptor_file=Path(descriptor_file).absolute(),
            names=tuple(names),
            candidates={names[image]: others for image, others in groups.items()},
        ),
        workers=workers,
        overwrite=True,
        progress=progress,
    )
    with Store(step.output) as store:
        votes = np.concatenate([store.read((names[i],)).arrays[_VOTES] for i in groups])
    return _sorted(firsts, seconds, votes)


def _sorted(firsts: NDArray[Any], seconds: NDArray[Any], votes: Float) -> Ranking:
    """The partners of each image in the order of the votes."""
    images = np.concatenate([firsts, seconds])
    partners = np.concatenate([seconds, firsts]).astype(np.int64)
    order = np.lexsort((partners, -np.concatenate([votes, votes]), images))
    images, partners = images[order], partners[order]
    starts = np.flatnonzero(np.diff(images, prepend=-1))
    return dict(zip(images[starts].tolist(), np.split(partners, starts[1:]), strict=True))

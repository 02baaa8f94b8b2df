"""The matches of image pairs from a feature file, as one match file (HDF5) for all pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.collection import matching_cascade
from featherglue.collection.extraction import SessionSource
from featherglue.collection.feature_reader import FeatureReader
from featherglue.collection.match_alignment import NUM_COLUMNS, align_matches
from featherglue.collection.matching_cascade import is_applicable, match_by_cascade
from featherglue.collection.photo_frames import mask_path
from featherglue.collection.records import FINGERPRINT, Key, Record, failed_record
from featherglue.collection.resumable import Progress, StepResult, run_resumable
from featherglue.collection.shipping import feature_parts, mask_parts, moved_records
from featherglue.collection.store import Store
from featherglue.collection.tasks import Part, Place, RecordSource
from featherglue.errors import ImageError, StoreError
from featherglue.fingerprint import file_state, fingerprint
from featherglue.matching.extractors import stage_settings
from featherglue.matching.fusion import nearest_keypoints
from featherglue.options import ProcessingConfig
from featherglue.session import Session
from featherglue.types import Features

_MAX_KEYPOINT_DISTANCE = 3.0  # px, of a match of the search from a stored keypoint
_MAX_INT16 = 32767
_MIN_PAIRS = 64  # of a worker: a pair takes about 10 ms, and a worker half a second to start
_MIN_SEARCHED = 4  # pairs of a worker if some are searched: a search takes a fifth of a second


@dataclass(frozen=True, kw_only=True)
class MatchingTask:
    """The matches of one pair.

    Attributes:
        source: the session.
        images: folder of the images.
        feature_file: the features of the images.
        cascade: whether to match by the cascade, see `matching_cascade`.
        searched: pairs to match with a search instead.
        masks: folder of the masks that the search obeys, see `extraction.ExtractionTask`.
    """

    source: SessionSource
    images: Path
    feature_file: Path | RecordSource
    cascade: bool
    searched: frozenset[Key] = frozenset()
    masks: Path | None = None

    def open(self) -> Callable[[Key], Record]:
        """See `Task`."""
        session = self.source.open().with_settings(resize=-1, refine=False).with_stored_features()
        with_images = session.search != "off"
        features = FeatureReader(
            self.feature_file, self.images, with_images=with_images, masks=self.masks
        )
        if not self.searched:
            return lambda key: match_record(session, features, key, self.cascade)
        searching = session.with_search("auto").with_stored_features()
        viewed = FeatureReader(self.feature_file, self.images, with_images=True, masks=self.masks)

        def match(key: Key) -> Record:
            if key in self.searched:
                return match_record(searching, viewed, key)
            return match_record(session, features, key, self.cascade)

        return match

    def opening_parts(self) -> list[Part]:
        """See `ShippableTask`."""
        return self.source.parts()

    def item_parts(self, key: Key) -> list[Part]:
        """See `ShippableTask`."""
        return [
            *feature_parts(self.images, self.feature_file, key),
            *(part for name in key for part in mask_parts(self.masks, name)),
        ]

    def moved(self, place: Place) -> MatchingTask:
        """See `ShippableTask`."""
        return replace(
            self,
            source=self.source.moved(place),
            images=place.folder(self.images),
            feature_file=moved_records(self.feature_file, place),
            masks=None if self.masks is None else place.folder(self.masks),
        )


def match_record(
    session: Session, features: FeatureReader, key: Key, cascade: bool = False
) -> Record:
    """Match two images, as a record of a match file (see `store`).

    The record of a pair whose images cannot be read has only the attribute `error`.

    Args:
        session: matches; its `refine` must be off.
        features: the features of the images.
        key: names of the images.
        cascade: see `matching_cascade`.
    """
    try:
        features0, features1 = (features.read(name) for name in key)
        indices, confidence = _match(session, features0, features1, cascade)
        order = np.argsort(indices[:, 0], kind="stable")
        rows, columns = indices[order].T
        alignment = np.zeros((0, NUM_COLUMNS), np.float16)
        if len(rows):
            alignment = align_matches(
                features.smoothed(key[0]),
                features.smoothed(key[1]),
                features0.keypoints[rows],
                features1.keypoints[columns],
            )
    except ImageError as error:
        return failed_record(key, str(error))
    kind = np.int16 if max(len(features0), len(features1)) <= _MAX_INT16 else np.int32
    partner = np.full(len(features0), -1, kind)
    scores = np.zeros(len(features0), np.float16)
    partner[rows], scores[rows] = columns, confidence[order]
    arrays = {"matches0": partner, "matching_scores0": scores, "alignment": alignment}
    return Record(key=key, attributes={}, arrays=arrays)


def _match(
    session: Session, features0: Features, features1: Features, cascade: bool
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Indices (M, 2) of the matched keypoints, and confidences (M,)."""
    if cascade:
        return match_by_cascade(session, features0, features1)
    result = session.match(features0, features1)
    if result.features0 is features0 and result.features1 is features1:
        return result.matches.indices, result.matches.scores
    # The search and guided matching have keypoints of their own.
    return nearest_keypoints(result.matches, features0, features1, _MAX_KEYPOINT_DISTANCE)


def match_features(
    images: str | os.PathLike[str],
    feature_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    pairs: Iterable[tuple[str, str]],
    source: SessionSource,
    *,
    cascade: bool = True,
    searched: Collection[tuple[str, str]] = (),
    masks: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> StepResult:
    """Match pairs of images from a feature file into a match file. An interrupted run resumes.

    A pair without features of one of its images is a failure of the result. A pair is matched
    again if the features of its images have changed.

    Args:
        images: folder of the images; the track adjustment needs their pixels.
        feature_file: the features, see `extract_features`.
        output: the match file.
        pairs: names of the images of each pair. Only the first of two equal pairs is matched.
        source: the session.
        cascade: match pairs with many similar descriptors by these, and reject pairs without an
            epipolar geometry, see `matching_cascade`. It needs a matcher with a network and
            consensus, and no search; without them it does nothing.
        searched: those of `pairs` that are matched with a search over rotation and scale instead.
        masks: folder of masks, see `extract_features`, which a search obeys, too.
        workers: maximum number of processes, each with one thread; None takes one per core.
        ray: address of a Ray cluster that does the work, such as "auto" or "host:port", see
            `run_cluster`; `workers` is the maximum number of its processes. None works on this
            machine.
        overwrite: replace matches that were made with other settings.
        progress: called with the number of pairs that are done and the number of all.

    Raises:
        StoreError: `feature_file` cannot be read, or lacks an image of every pair; `output` was
            made with other settings, and not `overwrite`.
        OutputError: a file cannot be written.
    """
    with Store(feature_file) as store:
        states = store.attributes()
        made_with = store.manifest
    listed = list(pairs)
    to_search = frozenset(searched)
    session = source.open()
    mask_folder = None if masks is None else Path(masks).absolute()
    items, missing = _items(listed, states, _marks(session, to_search, mask_folder))
    if listed and not items:
        raise StoreError(f"{feature_file}: has no features of both images of any pair")
    cascade = cascade and is_applicable(session)
    task = MatchingTask(
        source=source.portable(),
        images=Path(images).absolute(),
        feature_file=Path(feature_file).absolute(),
        cascade=cascade,
        searched=to_search,
        masks=mask_folder,
    )
    result = run_resumable(
        Path(output),
        _manifest(session, made_with, cascade),
        items,
        task,
        defaults=_defaults(),
        workers=workers,
        ray=ray,
        overwrite=overwrite,
        progress=progress,
        min_share=_MIN_SEARCHED if to_search or session.search != "off" else _MIN_PAIRS,
    )
    return replace(
        result,
        num_items=len(items) + len(missing),
        failures={**missing, **result.failures},
    )


def _manifest(session: Session, features: Mapping[str, Any], cascade: bool) -> dict[str, Any]:
    """What determines the matches, beside the pairs.

    Args:
        features: manifest of the feature file.
    """
    unused = ("runtime", "bfloat16", "refine", "guided_matching")  # the task does not refine
    matcher = session.describe()["matcher"]
    return {
        "kind": "matches",
        "features": {name: value for name, value in features.items() if name != "version"},
        "matcher": {name: value for name, value in matcher.items() if name not in unused},
        "cascade": cascade,
        "cascade_version": matching_cascade.VERSION if cascade else 0,
    }


def _defaults() -> dict[str, Any]:
    """What a manifest has where it lacks a setting that a later version added."""
    return {
        "features": {"extractor": stage_settings(ProcessingConfig(), "extraction")},
        "matcher": {**stage_settings(ProcessingConfig(), "matching"), "search": "off"},
        "cascade": False,
        "cascade_version": 0,
    }


def _marks(
    session: Session, searched: Collection[Key], masks: Path | None
) -> Callable[[Key], Sequence[Any]]:
    """What determines the matches of a pair, beside the features and the manifest."""

    def states(pair: Key) -> list[Any]:
        return [] if masks is None else [file_state(mask_path(masks, name))[1:] for name in pair]

    def marks(pair: Key) -> list[Any]:
        if pair in searched:
            return ["search", *states(pair)]
        return [] if session.search == "off" else states(pair)

    return marks


def _items(
    pairs: Iterable[tuple[str, str]],
    states: Mapping[Key, Mapping[str, Any]],
    marks: Callable[[Key], Sequence[Any]],
) -> tuple[dict[Key, str], dict[Key, str]]:
    """The fingerprint of each pair, and why other pairs cannot be matched.

    Args:
        pairs: names of the images.
        states: attributes of the features of each image.
        marks: what determines the matches of a pair, beside the features.
    """
    items: dict[Key, str] = {}
    missing: dict[Key, str] = {}
    for pair in pairs:
        absent = [name for name in pair if (name,) not in states]
        if pair[::-1] in items or pair[::-1] in missing:
            continue  # the same pair
        if absent:
            missing[pair] = f"no features of {absent[0]}"
        else:
            state = [states[name,].get(FINGERPRINT) for name in pair]
            items[pair] = fingerprint([*state, *marks(pair)])
    return items, missing

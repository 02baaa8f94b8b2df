"""The alignment of the matches of single pairs at moved keypoints, as work of processes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.feature_reader import FeatureReader
from featherglue.collection.match_alignment import align_matches
from featherglue.collection.numbered_keypoints import matched_indices
from featherglue.collection.records import Key, Record, failed_record
from featherglue.collection.shipping import (
    feature_parts,
    moved_records,
    open_records,
    record_parts,
)
from featherglue.collection.tasks import Part, Place, RecordSource
from featherglue.errors import ImageError


@dataclass(frozen=True, kw_only=True)
class AlignmentTask:
    """The alignment of the retained matches of one pair at the moved keypoints.

    Attributes:
        images: folder of the images.
        feature_file: the moved keypoints.
        match_file: the matches.
        kept: for each pair, bits of the rows of its matches, 1 if retained.
    """

    images: Path
    feature_file: Path | RecordSource
    match_file: Path | RecordSource
    kept: Mapping[Key, NDArray[np.uint8]]

    def open(self) -> Callable[[Key], Record]:
        """See `Task`."""
        features = FeatureReader(self.feature_file, self.images)
        return functools.partial(self._align, features, open_records(self.match_file))

    def opening_parts(self) -> list[Part]:
        """See `ShippableTask`."""
        return []

    def item_parts(self, key: Key) -> list[Part]:
        """See `ShippableTask`."""
        parts = feature_parts(self.images, self.feature_file, key)
        return [*parts, *record_parts(self.match_file, key)]

    def moved(self, place: Place) -> AlignmentTask:
        """See `ShippableTask`."""
        return replace(
            self,
            images=place.folder(self.images),
            feature_file=moved_records(self.feature_file, place),
            match_file=moved_records(self.match_file, place),
        )

    def _align(self, features: FeatureReader, matches: RecordSource, key: Key) -> Record:
        record = select_matches(matches.read(key), np.flatnonzero(np.unpackbits(self.kept[key])))
        rows, columns = matched_indices(record).T
        try:
            features0, features1 = (features.read(name) for name in key)
            alignment = align_matches(
                features.smoothed(key[0]),
                features.smoothed(key[1]),
                features0.keypoints[rows],
                features1.keypoints[columns],
            )
        except ImageError as error:
            return failed_record(key, str(error))
        return Record(key=key, attributes={}, arrays={**record.arrays, "alignment": alignment})


def packed_rows(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Ascending rows as bits: every worker receives those of all pairs."""
    chosen = np.zeros(rows[-1] + 1, np.bool_)
    chosen[rows] = True
    return np.packbits(chosen)


def select_matches(record: Record, rows: NDArray[np.int64]) -> Record:
    """The record of a pair with some of its matches only."""
    arrays = dict(record.arrays)
    chosen = np.zeros(len(arrays["matches0"]), np.bool_)
    chosen[matched_indices(record)[rows, 0]] = True
    arrays["matches0"] = np.where(chosen, arrays["matches0"], -1).astype(arrays["matches0"].dtype)
    if "matching_scores0" in arrays:
        scores = arrays["matching_scores0"]
        arrays["matching_scores0"] = np.where(chosen, scores, 0).astype(scores.dtype)
    arrays["alignment"] = arrays["alignment"][rows]
    return Record(key=record.key, attributes=record.attributes, arrays=arrays)

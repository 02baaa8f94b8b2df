"""The keypoints and matches of a collection, with one numbering over all images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.photo_frames import Frame
from featherglue.collection.records import Key, Record
from featherglue.collection.store import Store
from featherglue.errors import StoreError

Float = NDArray[np.float32]
Index = NDArray[np.int64]


class NumberedKeypoints:
    """The keypoints of all images of a feature file.

    Attributes:
        points: (N, 2) float32 in the stored frame, by the name of the image.
        frames: by the name of the image.
        start: number of the first keypoint of each image.
        count: number of all keypoints.
    """

    def __init__(self, store: Store) -> None:
        self.points: dict[str, Float] = {}
        self.frames: dict[str, Frame] = {}
        self.start: dict[str, int] = {}
        self.count = 0
        for key in store.sorted_keys():
            record = store.read(key, ("keypoints", "image_size"), required="keypoints")
            name = key[0]
            self.points[name] = record.arrays["keypoints"].astype(np.float32)
            self.frames[name] = record_frame(record, self.points[name])
            self.start[name] = self.count
            self.count += len(self.points[name])
        self._written = {name.replace("/", "-"): name for name in self.points}

    def moved(self, displacements: NDArray[np.float64]) -> dict[str, Float]:
        """Keypoints (N, 2) of each image in its stored frame, after displacements (K, 2)."""
        moved = {}
        for name, points in self.points.items():
            frame, start = self.frames[name], self.start[name]
            own = displacements[start : start + len(points)].astype(np.float32)
            moved[name] = frame.to_stored(frame.to_working(points) + own)
        return moved

    def image_name(self, written: str) -> str | None:
        """The name of an image, also as another program writes it in a match file."""
        return written if written in self.points else self._written.get(written)

    def numbers(self, pair: Key, indices: Index) -> Index:
        """Numbers (M, 2) of the keypoints of matches (M, 2)."""
        return np.asarray(indices + [self.start[name] for name in pair])


def record_frame(record: Record, points: Float) -> Frame:
    """The frames of an image from its record in a feature file."""
    size = record.arrays.get("image_size")
    if size is None:  # of another program; only the keypoints are known
        size = np.ceil(points.max(0) + 1) if len(points) else np.ones(2)
    width, height = (int(side) for side in size)
    working = record.attributes.get("working_size", (width, height))
    return Frame(
        size=(width, height),
        working_size=(int(working[0]), int(working[1])),
        orientation=int(record.attributes.get("orientation", 1)),
    )


def pixel_scale(frames: Iterable[Frame]) -> float:
    """The median number of pixels of the stored frame per pixel of the working frame; at least 1.

    The keypoints of shrunk images are as much less accurate in pixels of the stored frame. COLMAP's
    limits of errors, which are for keypoints of the stored frame, are multiplied by it.
    """
    return max(1.0, float(np.median([frame.scale for frame in frames] or [1.0])))


def stored_frames(store: Store) -> list[Frame]:
    """The frames of the images of a feature file."""
    frames = []
    for key in store.sorted_keys():
        record = store.read(key, ("image_size",))
        if "image_size" not in record.arrays:  # of another program
            record = store.read(key, ("keypoints",), required="keypoints")
        frames.append(record_frame(record, record.arrays.get("keypoints", np.zeros((0, 2)))))
    return frames


def matched_indices(record: Record) -> Index:
    """Indices (M, 2) of the matched keypoints, in ascending order of the first."""
    partner = record.arrays["matches0"].astype(np.int64)
    rows = np.flatnonzero(partner >= 0)
    return np.stack((rows, partner[rows]), 1)


def read_matches(
    store: Store, keypoints: NumberedKeypoints
) -> Iterator[tuple[tuple[str, str], Index, Record]]:
    """Names, matches (M, 2) and record of each pair of a match file.

    Raises:
        StoreError: an image of a pair, or a matched keypoint, is not in the feature file.
    """
    for key in store.sorted_keys():
        record = store.read(key, ("matches0", "alignment"), required="matches0")
        yield check_matches(record, keypoints, store.path)


def check_matches(
    record: Record, keypoints: NumberedKeypoints, path: Path
) -> tuple[tuple[str, str], Index, Record]:
    """Names, matches (M, 2) and record of one pair.

    Args:
        record: with `matches0`.
        keypoints: those of the feature file.
        path: the match file, for the message.

    Raises:
        StoreError: an image of the pair, or a matched keypoint, is not in the feature file.
    """
    names = _image_names(record.key, keypoints)
    indices = matched_indices(record)
    counts = [len(keypoints.points[name]) for name in names]
    if len(record.arrays["matches0"]) != counts[0] or (indices >= counts).any():
        raise StoreError(f"{path}: the matches of {' and '.join(names)} are not of these features")
    return names, indices, record


def _image_names(key: Key, keypoints: NumberedKeypoints) -> tuple[str, str]:
    if len(key) != 2:
        raise StoreError(f"{key[0]!r} is no pair of images: not a match file")
    name0, name1 = (keypoints.image_name(name) for name in key)
    if name0 is None or name1 is None:
        raise StoreError(f"no features of both images of the pair {' and '.join(key)}")
    return name0, name1

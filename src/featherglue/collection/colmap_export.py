"""A COLMAP database from a feature file and a match file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.colmap import (
    CameraOptions,
    check_camera,
    require_pycolmap,
    verify_matches,
    write_database,
)
from featherglue.collection.photo_frames import Frame
from featherglue.collection.records import Record
from featherglue.collection.store import Store
from featherglue.collection.track_adjustment import (
    AdjustmentConfig,
    Equations,
    adjust_tracks,
)
from featherglue.errors import OutputError

Float = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """The content of a database.

    Attributes:
        database: the file.
        num_images: number of images.
        num_pairs: number of pairs with matches.
        num_verified_pairs: number of pairs with a two-view geometry.
        num_matches: number of matches.
        num_rejected: number of matches that the track adjustment rejected.
        median_displacement: px of the working frame, of the adjusted keypoints; None without
            adjustment.
    """

    database: Path
    num_images: int
    num_pairs: int
    num_verified_pairs: int
    num_matches: int
    num_rejected: int
    median_displacement: float | None


def export_colmap(
    images: str | os.PathLike[str],
    feature_file: str | os.PathLike[str],
    match_file: str | os.PathLike[str],
    database: str | os.PathLike[str],
    *,
    cameras: CameraOptions | None = None,
    adjustment: AdjustmentConfig | None = AdjustmentConfig(),  # noqa: B008  frozen
    num_threads: int | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Write a COLMAP database with cameras, adjusted keypoints and verified matches.

    Args:
        images: folder of the images.
        feature_file: see `extract_features`.
        match_file: see `match_features`.
        database: the file to write.
        cameras: camera model, parameters, and which images share a camera.
        adjustment: settings of the track adjustment; None keeps the detected keypoints.
        num_threads: maximum number of threads; None takes one per core.
        overwrite: replace an existing database.

    Raises:
        MissingExtraError: pycolmap is not installed.
        OutputError: the database exists, and not `overwrite`; or it cannot be written.
        StoreError: a file cannot be read, or a match has no keypoint.
        UsageError: an invalid camera model.
        ImageError: COLMAP cannot read an image.
    """
    target = Path(database)
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists; choose another file, or use `overwrite`")
    cameras = cameras or CameraOptions()
    check_camera(cameras)
    with Store(feature_file) as features, Store(match_file) as matches:
        keypoints = _Keypoints(features)
        pairs = matches.sorted_keys()
        rejected: set[int] = set()
        moves = np.zeros((keypoints.count, 2))
        if adjustment is not None:
            adjusted = adjust_tracks(
                Equations.of(_equations(matches, pairs, keypoints)), keypoints.count, adjustment
            )
            moves = adjusted.displacements
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_database(
                partial, images, keypoints.moved(moves), _indices(matches, pairs), cameras
            )
            verify_matches(partial, num_threads)
            result = _describe(partial, target, moves if adjustment else None, len(rejected))
            partial.replace(target)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error})") from None
        finally:
            partial.unlink(missing_ok=True)
    return result


class _Keypoints:
    """The keypoints of all images, numbered through."""

    def __init__(self, store: Store) -> None:
        self.points: dict[str, Float] = {}
        self._frames: dict[str, Frame] = {}
        self.start: dict[str, int] = {}
        self.count = 0
        for key in store.sorted_keys():
            record = store.read(key)
            name = key[0]
            self.points[name] = record.arrays["keypoints"].astype(np.float32)
            self._frames[name] = _frame(record)
            self.start[name] = self.count
            self.count += len(self.points[name])

    def moved(self, displacements: NDArray[np.float64]) -> dict[str, Float]:
        """Keypoints (N, 2) of each image in its stored frame, after displacements (K, 2)."""
        moved = {}
        for name, points in self.points.items():
            frame, start = self._frames[name], self.start[name]
            own = displacements[start : start + len(points)].astype(np.float32)
            moved[name] = frame.to_stored(frame.to_working(points) + own)
        return moved


def _frame(record: Record) -> Frame:
    width, height = (int(side) for side in record.arrays["image_size"])
    working = record.attributes.get("working_size", (width, height))
    return Frame(
        size=(width, height),
        working_size=(int(working[0]), int(working[1])),
        orientation=int(record.attributes.get("orientation", 1)),
    )


def _matched(record: Record) -> NDArray[np.int64]:
    """Indices (M, 2) of the matched keypoints, in ascending order of the first."""
    partner = record.arrays["matches0"].astype(np.int64)
    rows = np.flatnonzero(partner >= 0)
    return np.stack((rows, partner[rows]), 1)


def _equations(
    matches: Store, pairs: list[tuple[str, ...]], keypoints: _Keypoints
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]]:
    for name0, name1 in pairs:
        record = matches.read((name0, name1))
        rows, columns = _matched(record).T
        alignment = record.arrays.get("alignment")
        if alignment is not None:
            yield rows + keypoints.start[name0], columns + keypoints.start[name1], alignment


def _indices(
    matches: Store, pairs: list[tuple[str, ...]]
) -> Iterator[tuple[tuple[str, str], NDArray[np.int64]]]:
    for name0, name1 in pairs:
        yield (name0, name1), _matched(matches.read((name0, name1)))


def _describe(
    database: Path, target: Path, displacements: NDArray[np.float64] | None, num_rejected: int
) -> ExportResult:
    pycolmap = require_pycolmap()
    with pycolmap.Database.open(database) as opened:
        _, counts = opened.read_two_view_geometry_num_inliers()
        moved = None
        if displacements is not None:
            length = np.linalg.norm(displacements, axis=1)
            moved = float(np.median(length[length > 0])) if (length > 0).any() else 0.0
        return ExportResult(
            database=target,
            num_images=opened.num_images(),
            num_pairs=opened.num_matched_image_pairs(),
            num_verified_pairs=sum(count > 0 for count in counts),
            num_matches=opened.num_matches(),
            num_rejected=num_rejected,
            median_displacement=moved,
        )

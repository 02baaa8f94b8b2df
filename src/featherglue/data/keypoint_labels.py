"""Keypoint labels from homographic adaptation, and the file that stores them.

Homographic adaptation detects keypoints in many warped views of a photograph and keeps those that
are found repeatedly (DeTone, Malisiewicz, Rabinovich: SuperPoint, CVPR Workshops 2018).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.data.photographs import Points
from featherglue.errors import StoredFileError, TrainingError, UsageError
from featherglue.io.files import write_npz
from featherglue.io.json import parse_json
from featherglue.io.npz import read_npz

FORMAT, VERSION = "featherglue-labels", 1
RankBy = Literal["score", "repeatability", "matchability"]
Counts = NDArray[np.uint16]
# Arrays with one row for each label: dtype and shape of a row.
_COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "points": (np.float32, (2,)),
    "scores": (np.float32, ()),
    "covered": (np.uint16, ()),
    "found": (np.uint16, ()),
    "matched": (np.uint16, ()),
}


@dataclass(frozen=True, eq=False)
class PhotoLabels:
    """The labels of one photograph, highest score first.

    Attributes:
        size: (width, height) of the photograph, pixels.
        points: (N, 2) float32 xy, pixels of the photograph.
        scores: (N,) float32, mean detection score over all views, at least 0.
        covered: (N,) uint16, number of warped views that show the point.
        found: (N,) uint16, number of these views in which it is detected.
        matched: (N,) uint16, number of these views in which its descriptor is the nearest
            neighbor of its original among all labels.
    """

    size: tuple[int, int]
    points: Points
    scores: NDArray[np.float32]
    covered: Counts
    found: Counts
    matched: Counts

    def __len__(self) -> int:
        return len(self.points)

    @property
    def repeatability(self) -> NDArray[np.float32]:
        """(N,) float32 in [0, 1]: found / covered; 0 where `covered` is 0."""
        return np.asarray(self.found / np.maximum(self.covered, 1), np.float32)

    @property
    def matchability(self) -> NDArray[np.float32]:
        """(N,) float32 in [0, 1]: matched / covered; 0 where `covered` is 0."""
        return np.asarray(self.matched / np.maximum(self.covered, 1), np.float32)

    def rank(self, by: Sequence[RankBy]) -> NDArray[np.float32]:
        """(N,) float32: the product of the quantities named in `by`.

        Raises:
            UsageError: `by` is empty or names another quantity.
        """
        known = {
            "score": self.scores,
            "repeatability": self.repeatability,
            "matchability": self.matchability,
        }
        if not by or set(by) - set(known):
            raise UsageError(f"by must name some of {', '.join(known)}, not {list(by)}")
        return np.asarray(np.prod([known[name] for name in by], axis=0), np.float32)


class KeypointLabels(Mapping[str, PhotoLabels]):
    """Labels of a folder of photographs, by the photograph's path below the folder (with `/`).

    Attributes:
        model: SHA-256 of the weights of the extractor that detected the keypoints.
        settings: settings of the homographic adaptation, as plain values.
    """

    def __init__(
        self, photographs: Mapping[str, PhotoLabels], model: str, settings: Mapping[str, Any]
    ) -> None:
        self._photographs, self.model, self.settings = dict(photographs), model, dict(settings)

    def __getitem__(self, name: str) -> PhotoLabels:
        return self._photographs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._photographs)

    def __len__(self) -> int:
        return len(self._photographs)

    def points(
        self,
        name: str,
        min_rank: float = 0.0,
        by: Sequence[RankBy] = ("score",),
        size: tuple[int, int] | None = None,
    ) -> Points:
        """The keypoints of a photograph, highest rank first.

        Args:
            name: path of the photograph below the folder.
            min_rank: minimum rank of a keypoint.
            by: quantities whose product is the rank.
            size: (width, height) of the photograph, which is checked if given.

        Returns:
            (N, 2) float32 xy, pixels of the photograph.

        Raises:
            TrainingError: the photograph has no labels, or another size than when it was labeled.
        """
        if name not in self:
            raise TrainingError(f"{name}: has no labels; create labels for its folder")
        labels = self[name]
        if size is not None and size != labels.size:
            raise TrainingError(
                f"{name}: is {size[0]}×{size[1]} px, but was {labels.size[0]}×{labels.size[1]} px "
                "when it was labeled; create the labels again"
            )
        rank = labels.rank(by)
        order = np.argsort(-rank, kind="stable")
        return labels.points[order[rank[order] >= min_rank]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all labels to an npz file, atomically.

        Raises:
            OutputError: the file cannot be written.
        """
        every = list(self.values())
        header = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "settings": self.settings,
            "names": list(self),
        }
        arrays: dict[str, NDArray[Any]] = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "sizes": np.array([labels.size for labels in every], np.int32).reshape(-1, 2),
            "ends": np.cumsum([len(labels) for labels in every], dtype=np.int64),
        }
        for column, (dtype, shape) in _COLUMNS.items():
            empty = np.zeros((0, *shape), dtype)
            arrays[column] = np.concatenate([empty, *(getattr(x, column) for x in every)])
        write_npz(path, arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> KeypointLabels:
        """Read a file that `save` wrote.

        Raises:
            TrainingError: the file is missing, damaged, not a label file, or of another version.
        """
        path = Path(path)
        try:
            arrays = read_npz(path)
            header = parse_json(arrays["header"].tobytes(), finite=False)
            form, version = header["format"], header["version"]
        except StoredFileError as error:
            advice = "" if path.exists() else "; create it by homographic adaptation"
            raise TrainingError(f"{error}{advice}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise TrainingError(f"{path}: not a label file ({error})") from None
        if form != FORMAT or version != VERSION:
            raise TrainingError(
                f"{path}: format {form!r} version {version}, expected {FORMAT!r} version "
                f"{VERSION}; create the labels again"
            )
        return _from_arrays(header, arrays, path)


def _from_arrays(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path
) -> KeypointLabels:
    try:
        names, ends, sizes = header["names"], arrays["ends"], arrays["sizes"]
        model, settings = header["model"], header["settings"]
        columns = {column: arrays[column] for column in _COLUMNS}
    except KeyError as error:
        raise TrainingError(f"{path}: damaged, {error} is missing") from None
    total = int(ends[-1]) if len(ends) else 0
    consistent = all(
        columns[name].shape == (total, *shape) and columns[name].dtype == dtype
        for name, (dtype, shape) in _COLUMNS.items()
    )
    ascending = bool((np.diff(ends, prepend=0) >= 0).all())
    if not (consistent and ascending and len(names) == len(ends) == len(sizes)):
        raise TrainingError(f"{path}: damaged, its arrays are inconsistent")
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    photographs = {
        name: PhotoLabels(
            size=(int(size[0]), int(size[1])),
            **{column: array[start:end] for column, array in columns.items()},
        )
        for name, size, start, end in zip(names, sizes, starts, ends, strict=True)
    }
    return KeypointLabels(photographs, model, settings)

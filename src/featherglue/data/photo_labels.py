"""Keypoint labels of a folder of photographs, as homographic adaptation finds them, in one file."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from featherglue.data.photographs import PhotoFolder, Source
from featherglue.errors import TrainingError, UsageError
from featherglue.io.files import write_npz

FORMAT, VERSION = "featherglue-labels", 1
Rank = Literal["score", "repeatability", "matchability"]
Points = NDArray[np.float32]
Counts = NDArray[np.uint16]
# Of the arrays with a row for each label: type and shape of a row.
_COLUMNS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "points": (np.float32, (2,)),
    "scores": (np.float32, ()),
    "covered": (np.uint16, ()),
    "found": (np.uint16, ()),
    "matched": (np.uint16, ()),
}


@dataclass(frozen=True, eq=False)
class PhotoLabels:
    """The labels of one photograph, the highest score first.

    Attributes:
        size: (width, height) of the photograph.
        points: (N, 2) float32 xy, pixels of the photograph.
        scores: (N,) float32, mean of the score maps there, at least 0.
        covered: (N,) uint16, in how many warped views the point is seen.
        found: (N,) uint16, in how many of these it is detected again.
        matched: (N,) uint16, in how many its descriptor finds it among all labels.
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
        """(N,) float32 in [0, 1], found / covered; 0 for a point that no warped view covers."""
        return np.asarray(self.found / np.maximum(self.covered, 1), np.float32)

    @property
    def matchability(self) -> NDArray[np.float32]:
        """(N,) float32 in [0, 1], matched / covered; 0 for a point that no warped view covers."""
        return np.asarray(self.matched / np.maximum(self.covered, 1), np.float32)

    def rank(self, by: Sequence[Rank]) -> NDArray[np.float32]:
        """(N,) float32, the product of the quantities named in `by`.

        Raises:
            UsageError: no name, or one that is none of score, repeatability, matchability.
        """
        known = {
            "score": self.scores,
            "repeatability": self.repeatability,
            "matchability": self.matchability,
        }
        if not by or set(by) - set(known):
            raise UsageError(f"labels are ranked by any of {', '.join(known)}, not {list(by)}")
        return np.asarray(np.prod([known[name] for name in by], axis=0), np.float32)


class Labels(Mapping[str, PhotoLabels]):
    """Labels by the photograph's name (its path below the folder, with `/`).

    Attributes:
        model: SHA-256 of the weights of the model that found them.
        settings: how they were found, as plain values.
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
        minimum: float = 0.0,
        by: Sequence[Rank] = ("score",),
        size: tuple[int, int] | None = None,
    ) -> Points:
        """The points of a photograph, strongest first.

        Args:
            name: of the photograph. minimum: lowest rank of a point.
            by: what its rank is the product of: score, repeatability, matchability.
            size: (width, height) of the photograph, to make sure that it is the one labelled.

        Returns:
            (N, 2) float32 xy, pixels of the photograph.

        Raises:
            TrainingError: the photograph has no labels here, or another size.
        """
        if name not in self:
            raise TrainingError(
                f"{name}: the labels do not know this photograph; make them for its folder"
            )
        labels = self[name]
        if size is not None and size != labels.size:
            raise TrainingError(
                f"{name}: is {size[0]}×{size[1]} px, its labels are of a photograph of "
                f"{labels.size[0]}×{labels.size[1]}; make them anew"
            )
        rank = labels.rank(by)
        order = np.argsort(-rank, kind="stable")
        return labels.points[order[rank[order] >= minimum]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything to one npz file, whole or not at all.

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
        for column, (kind, shape) in _COLUMNS.items():
            empty = np.zeros((0, *shape), kind)
            arrays[column] = np.concatenate([empty, *(getattr(x, column) for x in every)])
        write_npz(path, arrays)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Labels:
        """Read what `save` wrote.

        Raises:
            TrainingError: missing, damaged, foreign or written by a newer version.
        """
        path = Path(path)
        try:
            with path.open("rb") as stream:
                if not zipfile.is_zipfile(stream):
                    raise ValueError("not an npz file")
                stream.seek(0)
                with np.load(stream, allow_pickle=False) as file:
                    arrays = {name: file[name] for name in file.files}
            header = json.loads(arrays["header"].tobytes())
            form, version = header["format"], header["version"]
        except FileNotFoundError:
            raise TrainingError(
                f"{path}: no such file; make it with homographic adaptation"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise TrainingError(f"{path}: not a file of labels, or damaged ({error})") from None
        if form != FORMAT or version != VERSION:
            raise TrainingError(
                f"{path}: format {form!r} version {version}, this is for {FORMAT!r} version "
                f"{VERSION}; make the labels anew"
            )
        return _from_arrays(header, arrays, path)


def _from_arrays(
    header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], path: Path
) -> Labels:
    try:
        names, ends, sizes = header["names"], arrays["ends"], arrays["sizes"]
        model, settings = header["model"], header["settings"]
        columns = {column: arrays[column] for column in _COLUMNS}
    except KeyError as error:
        raise TrainingError(f"{path}: damaged, {error} is missing; make it anew") from None
    total = int(ends[-1]) if len(ends) else 0
    fits = all(
        columns[name].shape == (total, *shape) and columns[name].dtype == kind
        for name, (kind, shape) in _COLUMNS.items()
    )
    rising = bool((np.diff(ends, prepend=0) >= 0).all())
    if not (fits and rising and len(names) == len(ends) == len(sizes)):
        raise TrainingError(f"{path}: damaged, its arrays do not fit together; make it anew")
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    photographs = {
        name: PhotoLabels(
            size=(int(size[0]), int(size[1])),
            **{column: array[start:end] for column, array in columns.items()},
        )
        for name, size, start, end in zip(names, sizes, starts, ends, strict=True)
    }
    return Labels(photographs, model, settings)


class LabelledFolder(PhotoFolder):
    """Photographs whose keypoints are labels instead of corners.

    Attributes:
        labels: of every photograph of the folder.
        minimum: lowest rank of a label. by: what its rank is the product of.
        certain: rank from which a label is in every picture. In each one those count that reach a
            limit drawn between `minimum` and this, so that a detector learns as probability how
            high a label ranks. 0 takes all that reach `minimum`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        labels: Labels,
        minimum: float = 0.0,
        by: Sequence[Rank] = ("repeatability", "matchability"),
        certain: float = 0.0,
    ) -> None:
        super().__init__(folder)
        self.labels, self.minimum, self.by, self.certain = labels, minimum, tuple(by), certain
        missing = [name for name in self.names if name not in labels]
        if missing:
            raise TrainingError(
                f"{folder}: {len(missing)} photographs have no labels, {missing[0]} among them; "
                "label the folder to its end with featherglue train adapt --resume"
            )
        if not any(len(labels.points(name, self.minimum, self.by)) for name in self.names):
            raise TrainingError(
                f"{folder}: no label reaches minimum = {self.minimum} of {' × '.join(self.by)}"
            )

    @property
    def limits(self) -> tuple[float, float]:
        """Between which the lowest rank of a picture's keypoints is drawn."""
        return self.minimum, self.certain or self.minimum

    def ranked_keypoints(
        self, index: int, image: NDArray[np.uint8]
    ) -> tuple[Points, NDArray[np.float32]]:
        """The labels of a photograph that may be learned, strongest first, and their ranks."""
        name, size = self.names[index], (image.shape[1], image.shape[0])
        points = self.labels.points(name, self.minimum, self.by, size)
        ranks = np.sort(self.labels[name].rank(self.by))[::-1]
        return points, np.ascontiguousarray(ranks[: len(points)])

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Source]:
        """A random photograph, every second one mirrored, and the lowest rank of its labels."""
        photo, source = super().draw(rng)
        name = self.names[source.index]
        self.labels.points(name, size=(photo.shape[1], photo.shape[0]))  # of this very photograph
        minimum = rng.uniform(self.minimum, self.certain) if self.certain else self.minimum
        return photo, replace(source, minimum=minimum)

    def keypoints(self, image: NDArray[np.uint8], source: Source) -> Points:
        """The labels that lie in the picture, the highest rank first."""
        name = self.names[source.index]
        width, _ = self.labels[name].size
        points = self.labels.points(name, source.minimum, self.by)
        x, y = points.T
        x = (width - 1 - x if source.mirrored else x) - np.float32(source.left)
        y = y - np.float32(source.top)
        height, width = image.shape
        shown = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        return np.stack((x[shown], y[shown]), 1)

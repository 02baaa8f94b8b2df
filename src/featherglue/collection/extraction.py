"""The features of every image of a collection, as a feature file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.artifact.registry import find_model, portable_name
from featherglue.collection.photo_frames import checked_masks, mask_path, read_mask, read_view
from featherglue.collection.records import Key, Record, failed_record
from featherglue.collection.resumable import Progress, StepResult, run_resumable
from featherglue.collection.shipping import mask_parts
from featherglue.collection.tasks import Part, Place
from featherglue.errors import ImageError
from featherglue.fingerprint import file_state, fingerprint
from featherglue.matching.extractors import stage_settings
from featherglue.options import MODEL, ProcessingConfig, SessionOptions
from featherglue.session import Session, load


@dataclass(frozen=True, kw_only=True)
class SessionSource:
    """How a worker process opens its session.

    Attributes:
        model: name or folder of the model, see `load`.
        options: settings of the session.
    """

    model: str
    options: SessionOptions

    def open(self) -> Session:
        """Load the session, with one thread: the same results with any number of workers.

        It searches over rotation and scale only if the options ask for it.
        """
        search = "off" if self.options.search is MODEL else self.options.search
        return load(self.model, self.options, threads=1, search=search)

    def portable(self) -> SessionSource:
        """The same source in any working directory.

        Raises:
            ArtifactError: there is no such model.
        """
        return replace(self, model=portable_name(find_model(self.model)))

    def parts(self) -> list[Part]:
        """The files of a portable source; none of a shipped model: every installation has it."""
        folder = Path(self.model)
        if not folder.is_absolute():
            return []
        return [(folder, path.name) for path in sorted(folder.iterdir()) if path.is_file()]

    def moved(self, place: Place) -> SessionSource:
        """The same portable source at another place."""
        folder = Path(self.model)
        return replace(self, model=str(place.folder(folder))) if folder.is_absolute() else self


@dataclass(frozen=True, kw_only=True)
class ExtractionTask:
    """The features of one image.

    Attributes:
        source: the session.
        images: folder of the images.
        max_size: px, maximum of the longest side in the working frame; None keeps the size.
        masks: folder of masks by COLMAP's convention; None without masks.
    """

    source: SessionSource
    images: Path
    max_size: int | None
    masks: Path | None = None

    def open(self) -> Callable[[Key], Record]:
        """See `Task`."""
        session = self.source.open().with_settings(resize=-1)
        return lambda key: extract_record(session, self.images, key[0], self.max_size, self.masks)

    def opening_parts(self) -> list[Part]:
        """See `ShippableTask`."""
        return self.source.parts()

    def item_parts(self, key: Key) -> list[Part]:
        """See `ShippableTask`."""
        return [(self.images, key[0]), *mask_parts(self.masks, key[0])]

    def moved(self, place: Place) -> ExtractionTask:
        """See `ShippableTask`."""
        return replace(
            self,
            source=self.source.moved(place),
            images=place.folder(self.images),
            masks=None if self.masks is None else place.folder(self.masks),
        )


def extract_record(
    session: Session, images: Path, name: str, max_size: int | None, masks: Path | None = None
) -> Record:
    """Extract the features of an image, as a record of a feature file (see `store`).

    The record of an image that cannot be read has only the attribute `error`.

    Args:
        session: extracts; its `resize` must be −1.
        images: folder of the images.
        name: name of the image, relative to the folder.
        max_size: px, maximum of the longest side in the working frame; None keeps the size.
        masks: folder of masks; an image without a mask is used as a whole.
    """
    try:
        image, frame = read_view(images / name, max_size)
        path = None if masks is None else mask_path(masks, name)
        mask = read_mask(path, frame) if path is not None and path.exists() else None
        features = session.extract(image, mask=mask)
    except ImageError as error:
        return failed_record((name,), str(error))
    return Record(
        key=(name,),
        attributes={"orientation": frame.orientation, "working_size": frame.working_size},
        arrays={
            "keypoints": frame.to_stored(features.keypoints),
            "descriptors": features.descriptors.T.astype(np.float16),
            "scores": features.scores.astype(np.float16),
            "image_size": np.array(frame.size, np.int64),
        },
    )


def extract_features(
    images: str | os.PathLike[str],
    output: str | os.PathLike[str],
    names: Sequence[str],
    source: SessionSource,
    *,
    max_size: int | None = None,
    masks: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> StepResult:
    """Extract the features of images into a feature file. An interrupted run resumes.

    An image that cannot be read is a failure of the result, and has no group in the file. The
    features of an image are extracted again if its file has another size or modification time.

    Args:
        images: folder of the images.
        output: the feature file.
        names: names of the images, relative to the folder.
        source: the session.
        max_size: px, larger images are shrunk to this longest side; None keeps the size.
        masks: folder of masks by COLMAP's convention: `image.jpg.png` has the size of `image.jpg`,
            and keypoints where it is 0 are ignored. An image without a mask is used as a whole.
        workers: maximum number of processes, each with one thread; None takes one per core.
        ray: address of a Ray cluster that does the work, such as "auto" or "host:port", see
            `run_cluster`; `workers` is the maximum number of its processes. None works on this
            machine.
        overwrite: replace features that were made with other settings.
        progress: called with the number of images that are done and the number of all.

    Raises:
        UsageError: `masks` is no folder, or has no mask of any image.
        StoreError: `output` was made with other settings, and not `overwrite`.
        OutputError: a file cannot be written.
    """
    folder = Path(images).absolute()
    mask_folder = None if masks is None else checked_masks(masks, names)
    items: dict[Key, str] = {
        (name,): image_fingerprint(folder / name, mask_folder and mask_path(mask_folder, name))
        for name in names
    }
    manifest = {"kind": "features", "max_size": max_size, "extractor": _extractor(source)}
    task = ExtractionTask(
        source=source.portable(), images=folder, max_size=max_size, masks=mask_folder
    )
    return run_resumable(
        Path(output),
        manifest,
        items,
        task,
        defaults={"extractor": stage_settings(ProcessingConfig(), "extraction")},
        workers=workers,
        ray=ray,
        overwrite=overwrite,
        progress=progress,
    )


def image_fingerprint(path: Path, mask: Path | None = None) -> str:
    """Fingerprint of the size and the modification time of an image file and of its mask."""
    states = [file_state(path)[1:]]
    if mask is not None and mask.exists():
        states.append(file_state(mask)[1:])
    return fingerprint(*states)


def _extractor(source: SessionSource) -> dict[str, Any]:
    """What determines the features: kind, weights and settings."""
    described: dict[str, Any] = source.open().describe()["extractor"]
    return {name: value for name, value in described.items() if name not in ("runtime", "resize")}

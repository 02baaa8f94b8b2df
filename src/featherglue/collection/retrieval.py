"""Retrieval: global descriptors of the images of a feature file, and the nearest of each image.

The file of global descriptors has the layout of hloc: a group for each image with
`global_descriptor` (P,) float32 of unit length. It has the strongest local descriptors too, whose
votes order the nearest images (see `candidate_votes`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.collection.candidate_votes import (
    STRONGEST,
    Ranking,
    rank_candidates,
    strongest_descriptors,
)
from featherglue.collection.records import FINGERPRINT, Key, Record
from featherglue.collection.resumable import Progress, StepResult, run_resumable
from featherglue.collection.shipping import moved_records, open_records, record_parts
from featherglue.collection.store import Store
from featherglue.collection.tasks import Part, Place, RecordSource
from featherglue.collection.vocabulary import (
    VOCABULARY,
    Vocabulary,
    load_vocabulary,
    train_vocabulary,
)
from featherglue.errors import MissingExtraError, StoreError, UsageError
from featherglue.fingerprint import fingerprint

Float = NDArray[np.float32]
GLOBAL_DESCRIPTOR = "global_descriptor"
GLOBAL_DESCRIPTORS, VOTES = "global_descriptors.h5", "candidate_votes.h5"  # files of `folder`
_CANDIDATES_PER_NEIGHBOR = 10  # nearest images whose order the local descriptors decide
_MIN_CANDIDATES = 200
_MAX_EXACT = 50_000  # images; more are searched approximately
_NUM_PROBES = 32  # cells that an approximate search visits


@dataclass(frozen=True, kw_only=True)
class DescriptionTask:
    """The global descriptor of one image.

    Attributes:
        feature_file: the features of the images.
        vocabulary: the file of the vocabulary.
    """

    feature_file: Path | RecordSource
    vocabulary: Path

    def open(self) -> Callable[[Key], Record]:
        """See `Task`."""
        store, vocabulary = open_records(self.feature_file), load_vocabulary(self.vocabulary)

        def describe(key: Key) -> Record:
            arrays = store.read(key, ("descriptors", "scores"), required="descriptors").arrays
            local = arrays["descriptors"].T
            described: dict[str, NDArray[Any]] = {
                GLOBAL_DESCRIPTOR: vocabulary.describe(local),
                STRONGEST: strongest_descriptors(local, arrays.get("scores")),
            }
            return Record(key=key, attributes={}, arrays=described)

        return describe

    def opening_parts(self) -> list[Part]:
        """See `ShippableTask`."""
        return [(self.vocabulary.parent, self.vocabulary.name)]

    def item_parts(self, key: Key) -> list[Part]:
        """See `ShippableTask`."""
        return record_parts(self.feature_file, key)

    def moved(self, place: Place) -> DescriptionTask:
        """See `ShippableTask`."""
        return DescriptionTask(
            feature_file=moved_records(self.feature_file, place),
            vocabulary=place.folder(self.vocabulary.parent) / self.vocabulary.name,
        )


def describe_images(
    feature_file: str | os.PathLike[str],
    output: str | os.PathLike[str],
    vocabulary: str | os.PathLike[str],
    *,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> StepResult:
    """Write the global descriptors of all images of a feature file. An interrupted run resumes.

    Args:
        feature_file: see `extract_features`.
        output: the file of global descriptors.
        vocabulary: file of the vocabulary, see `find_vocabulary`.
        workers: maximum number of processes, each with one thread; None takes one per core.
        ray: address of a Ray cluster that does the work, such as "auto" or "host:port", see
            `run_cluster`; `workers` is the maximum number of its processes. None works on this
            machine.
        overwrite: replace descriptors that were made with another vocabulary.
        progress: called with the number of images that are done and the number of all.

    Raises:
        StoreError: a file cannot be read; the vocabulary is that of another model; `output` was
            made with another vocabulary, and not `overwrite`.
        OutputError: a file cannot be written.
    """
    loaded = load_vocabulary(vocabulary)
    with Store(feature_file) as store:
        weights = _check_vocabulary(loaded, store, vocabulary)
        items = {
            key: fingerprint(attributes.get(FINGERPRINT))
            for key, attributes in store.attributes().items()
        }
    manifest = {
        "kind": "global descriptors",
        "weights": weights,
        "vocabulary": loaded.fingerprint(),
    }
    task = DescriptionTask(
        feature_file=Path(feature_file).absolute(), vocabulary=Path(vocabulary).absolute()
    )
    return run_resumable(
        Path(output),
        manifest,
        items,
        task,
        workers=workers,
        ray=ray,
        overwrite=overwrite,
        progress=progress,
    )


def similar_images(
    feature_file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    model: str | os.PathLike[str],
    names: Sequence[str],
    num_neighbors: int,
    queries: NDArray[np.int64] | None = None,
    *,
    workers: int | None = None,
    ray: str | None = None,
    progress: Callable[[str, str], Progress] | None = None,
) -> Ranking:
    """The images that are most similar to each image, the most similar first.

    The images with the nearest global descriptors are candidates. The votes of local descriptors
    order them.

    Args:
        feature_file: see `extract_features`.
        folder: folder of the files of global descriptors and of votes. An interrupted run resumes.
        model: name or folder of the model that made the features; it needs a vocabulary.
        names: of the images.
        num_neighbors: number of similar images that are wanted; more are ordered.
        queries: (Q,) rows of `names` whose similar images are wanted; None takes all.
        workers: see `describe_images`.
        ray: see `describe_images`; the votes are counted on this machine.
        progress: called with the names of a step and of its unit; returns the function that is
            called with the number of images that are done and the number of all.

    Raises:
        MissingExtraError: faiss is not installed.
        StoreError: a file cannot be read; the model has no vocabulary, or is not that of the
            features.
        UsageError: `num_neighbors` is less than 1.
        OutputError: a file cannot be written.
    """
    if num_neighbors < 1:
        raise UsageError(f"num_neighbors must be at least 1, not {num_neighbors}")
    if len(names) < 2:
        return {}
    described = describe_images(
        feature_file,
        Path(folder) / GLOBAL_DESCRIPTORS,
        find_vocabulary(model),
        workers=workers,
        ray=ray,
        overwrite=True,
        progress=progress and progress("describing", "photos"),
    ).output
    rows = np.arange(len(names)) if queries is None else queries
    count = num_candidates(num_neighbors, len(names))
    found = nearest_images(read_global_descriptors(described, names), count, rows)
    return rank_candidates(
        described,
        Path(folder) / VOTES,
        names,
        dict(zip(rows.tolist(), found, strict=True)),
        workers=workers,
        progress=progress and progress("comparing", "photos"),
    )


def num_candidates(num_neighbors: int, num_images: int) -> int:
    """Number of the nearest images of each image whose order the local descriptors decide."""
    return min(max(_MIN_CANDIDATES, _CANDIDATES_PER_NEIGHBOR * num_neighbors), num_images - 1)


def find_vocabulary(model: str | os.PathLike[str]) -> Path:
    """The vocabulary of a model: that in its folder, or a shipped one of the same weights.

    Args:
        model: name of a shipped model, or folder of a model.

    Raises:
        ArtifactError: there is no such model.
        StoreError: the model has no vocabulary.
    """
    folder = find_model(model)
    path = folder / VOCABULARY
    if path.is_file():
        return path
    weights = load_artifact(folder).fingerprint
    for shipped in sorted((Path(__file__).parent / "vocabularies").glob("*.safetensors")):
        if load_vocabulary(shipped).weights == weights:
            return shipped
    raise StoreError(
        f"{folder}: the model has no vocabulary ({VOCABULARY}) for retrieval; train one with the "
        "features of a few thousand photographs, or choose other `pairs`"
    )


def learn_vocabulary(
    feature_file: str | os.PathLike[str], output: str | os.PathLike[str], **settings: Any
) -> Vocabulary:
    """Train a vocabulary with the features of a feature file, and write it.

    Args:
        feature_file: see `extract_features`; a few thousand images of many places.
        output: the file to write: `vocabulary.safetensors` in the folder of the model.
        **settings: keyword arguments of `train_vocabulary`.

    Raises:
        StoreError: the feature file cannot be read, or has no descriptors.
        UsageError: too few images.
        OutputError: the file cannot be written.
    """
    with Store(feature_file) as store:
        images = (_local_descriptors(store, key) for key in store.sorted_keys())
        vocabulary = train_vocabulary(images, _weights(store), **settings)
    vocabulary.save(output)
    return vocabulary


def read_global_descriptors(path: str | os.PathLike[str], names: Sequence[str]) -> Float:
    """Global descriptors (N, P) of images.

    Raises:
        StoreError: the file cannot be read, or lacks an image.
    """
    with Store(path) as store:
        rows = [
            store.read((name,), required=GLOBAL_DESCRIPTOR).arrays[GLOBAL_DESCRIPTOR]
            for name in names
        ]
    return np.array(rows, np.float32)


def nearest_images(
    descriptors: Float, num_neighbors: int, queries: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """The nearest images of each image, the nearest first.

    Beyond 50,000 images the search is approximate: faiss compares an image only with those in the
    32 nearest cells of an inverted file.

    Args:
        descriptors: (N, P), global descriptors of unit length.
        num_neighbors: number of nearest images, M.
        queries: (Q,) rows whose neighbors are wanted; None takes all.

    Returns:
        (Q, M) rows of `descriptors`, without the image itself; −1 where there are fewer.

    Raises:
        MissingExtraError: faiss is not installed.
        UsageError: `num_neighbors` is less than 1.
    """
    if num_neighbors < 1:
        raise UsageError(f"num_neighbors must be at least 1, not {num_neighbors}")
    rows = np.arange(len(descriptors)) if queries is None else queries
    found = _index(descriptors).search(descriptors[rows], num_neighbors + 1)[1]
    own = found == rows[:, None]
    own[:, -1] |= ~own.any(1)  # duplicates of the image took its place
    return np.asarray(found[~own].reshape(len(rows), -1), np.int64)


def _index(descriptors: Float) -> Any:
    try:
        import faiss
    except ModuleNotFoundError:
        raise MissingExtraError("retrieval", "sfm") from None
    count, size = descriptors.shape
    index: Any
    if count <= _MAX_EXACT:
        index = faiss.IndexFlatIP(size)
    else:
        num_cells = int(4 * np.sqrt(count))
        index = faiss.index_factory(size, f"IVF{num_cells},Flat", faiss.METRIC_INNER_PRODUCT)
        index.nprobe = _NUM_PROBES
        index.train(descriptors)
    index.add(descriptors)
    return index


def _local_descriptors(store: RecordSource, key: Key) -> NDArray[Any]:
    return store.read(key, ("descriptors",), required="descriptors").arrays["descriptors"].T


def _weights(store: Store) -> str:
    """Fingerprint of the weights that made a feature file; "" for a file of another program."""
    return str(store.manifest.get("extractor", {}).get("weights", ""))


def _check_vocabulary(vocabulary: Vocabulary, store: Store, path: str | os.PathLike[str]) -> str:
    """The fingerprint of the weights of the features, which must be those of the vocabulary."""
    weights = _weights(store)
    if weights != vocabulary.weights:
        raise StoreError(
            f"{path}: is the vocabulary of another model than that of {store.path}; use one that "
            "was trained with features of this model, or choose other `pairs`"
        )
    return weights

"""Features and matches of a collection as HDF5 files in the layout of hloc.

A feature file has a group for each image, named after it, with `keypoints` (N, 2) float32 in the
stored frame, `descriptors` (D, N) float16, `scores` (N,) float16 and `image_size` (2,) int64, width
and height. A match file has a group `name0/name1` for each pair, each name with its `/` written
as `-`, with `matches0` (N0,) integers (−1 is no match), `matching_scores0` (N0,) float16, and
what the track adjustment needs. The attribute `manifest` of both files states as JSON what they
were made with; `records` lists the key and the attributes of each record. Earlier versions wrote
these as attributes of each group, which are ten times slower to read.

Headers, attributes and arrays have checksums, which reading verifies. Files are written once and
replaced atomically; see `records` for the work in progress.
"""

from __future__ import annotations

import functools
import glob
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featherglue.collection import hdf5_items
from featherglue.collection.hdf5_output import Hdf5Output
from featherglue.collection.records import Key, Record
from featherglue.errors import MissingExtraError, OutputError, StoreError, short_reason

if TYPE_CHECKING:
    import h5py

_VERSION = 1
# The format of HDF5 1.10, in which names, attributes and headers have checksums.
_FORMAT = ("v110", "v110")
# An array has one chunk, which is read and written once: no cache of chunks.
_NO_CACHE = {"rdcc_nslots": 1, "rdcc_nbytes": 0}
# Number of dimensions, and kinds of types, of arrays.
_LAYOUT = {
    "keypoints": (2, "f"),
    "descriptors": (2, "f"),
    "scores": (1, "f"),
    "image_size": (1, "iuf"),
    "matches0": (1, "iu"),
    "matching_scores0": (1, "f"),
    "alignment": (2, "f"),
    "global_descriptor": (1, "f"),
    "strongest": (2, "i"),
    "votes": (1, "f"),
}
_COMPRESSED = ("matches0", "matching_scores0")
_OTHERS = {"keypoints", "matches0"}  # arrays of a record of another program
# What h5py and JSON raise for a damaged file.
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
_MANIFEST, _FAILURES, _RECORDS = "manifest", "failures", "records"  # attributes of the file, JSON
_KEY, _ATTRIBUTES = "key", "featherglue"  # attributes of a group, JSON, of earlier versions
_CHECKSUM = "_crc32"  # ends the names of the checksums of these attributes


class Store(AbstractContextManager["Store"]):
    """An HDF5 file of records, open for reading.

    Args:
        path: the file.

    Attributes:
        manifest: what the file was made with; empty for a file of another program.
        failures: attributes of the records without arrays, by key.

    Raises:
        MissingExtraError: h5py is not installed.
        StoreError: the file is missing or cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise StoreError(f"{path}: no such file")
        try:
            self._file = _h5py().File(self.path, "r", **_NO_CACHE)
        except OSError as error:
            raise StoreError(f"{path}: cannot be read as HDF5 ({error})") from None
        try:
            self.manifest: dict[str, Any] = _table(self._file.id, _MANIFEST)
            failures = _read_json(self._file.id, _FAILURES, [])
            self.failures = {tuple(key): dict(attributes) for key, attributes in failures}
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path}: damaged ({short_reason(error)})")

    def sorted_keys(self) -> list[tuple[str, ...]]:
        """Keys of the records, in the order of their group names."""
        try:
            return [key for key, _ in self._groups()]
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def attributes(self) -> dict[tuple[str, ...], dict[str, Any]]:
        """Attributes of every record, by its key."""
        try:
            return {key: self._attributes(name) for key, name in self._groups()}
        except _DAMAGE as error:
            raise self._damaged(error) from None

    def _groups(self) -> Iterator[tuple[tuple[str, ...], str]]:
        """Key and name of the group of each record."""
        for name, arrays in hdf5_items.groups_with_arrays(self._file.id).items():
            if name in self._listed:
                yield self._listed[name][0], name
                continue
            key = _read_json(hdf5_items.open_group(self._file.id, name), _KEY, None)
            if key is not None:
                yield tuple(key), name
            elif arrays & _OTHERS:
                yield tuple(name.split("/")) if "matches0" in arrays else (name,), name

    def _attributes(self, name: str) -> dict[str, Any]:
        """Attributes of a record, by the name of its group."""
        if name in self._listed:
            return dict(self._listed[name][1])
        return _table(hdf5_items.open_group(self._file.id, name), _ATTRIBUTES)

    @functools.cached_property
    def _listed(self) -> dict[str, tuple[tuple[str, ...], dict[str, Any]]]:
        """Key and attributes of the records of this version, by the name of the group."""
        listed = _read_json(self._file.id, _RECORDS, [])
        if not isinstance(listed, list):
            raise ValueError(f"{_RECORDS} is not a list")
        return {group_name(key := tuple(k)): (key, dict(attributes)) for k, attributes in listed}

    def __contains__(self, key: tuple[str, ...]) -> bool:
        return group_name(key) in self._file

    def read(
        self, key: Key, arrays: Collection[str] | None = None, *, required: str | None = None
    ) -> Record:
        """The record with this key.

        Args:
            key: key of the record.
            arrays: names of the arrays to read, where they exist; None reads all.
            required: name of the array that the record must have; None for none.

        Raises:
            StoreError: the file has no such record, it cannot be read, or an array has another
                shape than the layout states.
        """
        name = group_name(key)
        try:
            group = hdf5_items.open_group(self._file.id, name)
            found = hdf5_items.read_arrays(group, arrays)
            attributes = self._attributes(name)
        except KeyError:
            raise StoreError(f"{self.path}: has no record of {' and '.join(key)}") from None
        except _DAMAGE as error:
            raise self._damaged(error) from None
        record = Record(key=key, attributes=attributes, arrays=found)
        check_record(record, self.path, required)
        return record

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


def write_store(
    path: str | os.PathLike[str], manifest: Mapping[str, Any], records: Iterable[Record]
) -> None:
    """Write records as an HDF5 file that replaces `path`.

    A record without arrays is a failure: it has no group, and is listed in `Store.failures`.
    The same records in the same order give the same bytes.

    Raises:
        MissingExtraError: h5py is not installed.
        OutputError: the file cannot be written.
    """
    with _replacing(Path(path)) as file:
        _write_json(file.id, _MANIFEST, {**manifest, "version": _VERSION})
        listed: list[Any] = []
        failures: list[Any] = []
        for record in records:
            described = [record.key, dict(record.attributes)]
            if not record.arrays:
                failures.append(described)
                continue
            listed.append(described)
            group = hdf5_items.create_group(file.id, group_name(record.key))
            for name, array in record.arrays.items():
                hdf5_items.write_array(group, name, array, compressed=name in _COMPRESSED)
        _write_json(file.id, _FAILURES, failures)
        _write_json(file.id, _RECORDS, listed)


def group_name(key: tuple[str, ...]) -> str:
    """Name of the group of a record: as hloc names it."""
    return key[0] if len(key) == 1 else "/".join(name.replace("/", "-") for name in key)


def _write_json(item: Any, name: str, value: Any) -> None:
    """Set a JSON attribute, and its checksum: HDF5 has none for strings of variable length."""
    text = json.dumps(value, sort_keys=True)
    hdf5_items.write_attribute(item, name, text)
    hdf5_items.write_attribute(item, name + _CHECKSUM, np.uint32(zlib.crc32(text.encode())))


def _read_json(item: Any, name: str, default: Any) -> Any:
    """The value of a JSON attribute; `default` without it. Raises ValueError."""
    text = hdf5_items.read_attribute(item, name)
    checksum = hdf5_items.read_attribute(item, name + _CHECKSUM)
    if text is None and checksum is None:
        return default
    # Files of other programs have no checksum.
    if checksum is not None and zlib.crc32(text.encode(errors="surrogateescape")) != checksum:
        raise ValueError(f"{name} has another checksum")
    return json.loads(text)


def _table(item: Any, name: str) -> dict[str, Any]:
    """The values of a JSON attribute; none without it. Raises ValueError."""
    found = _read_json(item, name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not a table")
    return found


def check_record(record: Record, path: Path, required: str | None = None) -> None:
    """Raise StoreError if the arrays of a record have another shape than the layout states.

    Args:
        record: a record of `path`.
        path: the file, for the message.
        required: name of the array that the record must have; None for none.
    """
    fault = _array_fault(record.arrays, required)
    if fault:
        raise StoreError(f"{path}: {' and '.join(record.key)}: {fault}")


def _array_fault(arrays: Mapping[str, Any], required: str | None) -> str:
    """What is wrong with the arrays of a record; "" if nothing is."""
    if required is not None and required not in arrays:
        return f"has no {required!r}: not the right kind of file"
    for name, (dimensions, kinds) in _LAYOUT.items():
        array = arrays.get(name)
        if array is not None and (array.ndim != dimensions or array.dtype.kind not in kinds):
            return f"{name!r} has the shape {array.shape} and the type {array.dtype}"
    lengths = {len(arrays[n]) for n in ("matches0", "matching_scores0") if n in arrays}
    if len(lengths) > 1:
        return "'matching_scores0' has not as many entries as 'matches0'"
    points, size = arrays.get("keypoints"), arrays.get("image_size")
    if size is not None and (size.shape != (2,) or not (size > 0).all()):
        return f"'image_size' is {size.tolist()}"
    if points is None:
        return ""
    if points.shape[1] != 2 or not np.isfinite(points).all():
        return "'keypoints' are not finite points (N, 2)"
    counts = {"descriptors": -1, "scores": 0}
    wrong = [
        n for n, axis in counts.items() if n in arrays and arrays[n].shape[axis] != len(points)
    ]
    return f"{wrong[0]!r} has not as many entries as 'keypoints'" if wrong else ""


@contextmanager
def _replacing(path: Path) -> Iterator[h5py.File]:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    h5py = _h5py()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):  # of a kill
            left.unlink(missing_ok=True)
        with Hdf5Output(partial) as output:
            try:
                with h5py.File(output, "w", libver=_FORMAT, **_NO_CACHE) as file:
                    yield file
            finally:
                if output.error is not None:
                    raise output.error
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # h5py raises both if the disk is full
        reason = getattr(error, "strerror", None) or short_reason(error)
        raise OutputError(f"{path}: cannot be written ({reason})") from None
    finally:
        partial.unlink(missing_ok=True)


def _h5py() -> Any:
    try:
        import h5py
    except ModuleNotFoundError:
        raise MissingExtraError("a feature or match file", "sfm") from None
    return h5py

"""Append-only files of records, from which an interrupted run resumes.

An HDF5 file that is open for writing is lost if its process is killed. So results are appended to a
record file first; a killed process loses at most the record that it writes. When all work is
done, the records are written to the HDF5 file, and the record files are removed. Each worker
process has a record file of its own.

Layout: the magic bytes; then records, each with its length and CRC-32 (little-endian uint32) and
its payload: the length of a JSON header, the header, and the bytes of the arrays.
"""

from __future__ import annotations

import json
import os
import struct
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from io import RawIOBase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import OutputError, StoredFileWarning
from featherglue.io.locks import take_lock

Key = tuple[str, ...]
FINGERPRINT, ERROR = "fingerprint", "error"  # attributes of a record

_MAGIC = b"FGLREC01"
_PREFIX = struct.Struct("<II")
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """The result of one unit of work.

    Attributes:
        key: identity: the name of an image, or the two names of a pair.
        attributes: plain values.
        arrays: by name; none if the work failed.
    """

    key: Key
    attributes: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def failed_record(key: Key, reason: str) -> Record:
    """The record of an item whose work failed."""
    return Record(key=key, attributes={ERROR: reason})


def with_fingerprint(record: Record, state: str) -> Record:
    """The record with the fingerprint of its item."""
    attributes = {**record.attributes, FINGERPRINT: state}
    return Record(key=record.key, attributes=attributes, arrays=record.arrays)


class RecordWriter(AbstractContextManager["RecordWriter"]):
    """Appends records to a file; an incomplete record at its end is removed first.

    It waits for another writer of the file: a worker process that outlives its killed parent for
    the time of one record.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: what is written survives a kill, and a failed write leaves nothing behind.
            self._file = self.path.open("r+b" if self.path.exists() else "w+b", buffering=0)
            take_lock(self._file.fileno(), wait=True)
            end = len(_MAGIC)
            for _, position in _scan(self.path):
                end = position
            self._file.truncate(end)
            _write_all(self._file, _MAGIC)
            self._file.seek(end)
        except OSError as error:
            raise _failed(self.path, error) from None

    def append(self, record: Record) -> None:
        """Write a record completely, or not at all.

        Raises:
            OutputError: the disk is full, or the file cannot be written.
        """
        self.append_encoded(encode_record(record))

    def append_encoded(self, data: bytes | NDArray[np.uint8]) -> None:
        """Write what `encode_record` made, in this or in another process. Raises as `append`."""
        start = self._file.tell()
        try:
            _write_all(self._file, data)
        except OSError as error:
            self._file.truncate(start)
            self._file.seek(start)
            raise _failed(self.path, error) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __exit__(self, *exception: object) -> None:
        self.close()


def _write_all(file: RawIOBase, data: bytes | NDArray[np.uint8]) -> None:
    view = memoryview(data if isinstance(data, bytes) else data.data)
    while view:
        view = view[file.write(view) or 0 :]


class RecordIndex:
    """One record of each key in several record files: the one with the wanted fingerprint, if any.

    Args:
        paths: the files.
        wanted: fingerprint of each key.

    Attributes:
        attributes: attributes of the records, by key.
    """

    def __init__(self, paths: Iterable[Path], wanted: Mapping[Key, str]) -> None:
        self._places: dict[Key, tuple[Path, int, int]] = {}
        self.attributes: dict[Key, Mapping[str, Any]] = {}
        for path in paths:
            for payload, end in _scan(path):
                record = _decode(payload)
                state = record.attributes.get(FINGERPRINT)
                if record.key in self._places and state != wanted.get(record.key):
                    continue
                self._places[record.key] = path, end - len(payload), len(payload)
                self.attributes[record.key] = record.attributes

    def read(self, key: Key) -> Record:
        """The record with this key.

        Raises:
            KeyError: no file has it.
        """
        path, start, length = self._places[key]
        with path.open("rb") as file:
            file.seek(start)
            return _decode(file.read(length))


def _scan(path: Path) -> Iterator[tuple[bytes, int]]:
    """Payload of each complete record, and the position behind it."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if file.read(len(_MAGIC)) != _MAGIC:
            return
        while len(prefix := file.read(_PREFIX.size)) == _PREFIX.size:
            length, checksum = _PREFIX.unpack(prefix)
            payload = file.read(length)
            # A kill interrupted it, or the file system filled the file with zeros.
            if len(payload) < length or length < _LENGTH.size:
                return
            if zlib.crc32(payload) != checksum:
                warnings.warn(
                    f"{path}: damaged; the results of its end are computed again",
                    StoredFileWarning,
                    stacklevel=2,
                )
                return
            yield payload, file.tell()


def encode_record(record: Record) -> bytes:
    """The bytes of a record in a record file."""
    arrays = {name: np.ascontiguousarray(array) for name, array in record.arrays.items()}
    header = json.dumps(
        {
            "key": record.key,
            "attributes": dict(record.attributes),
            "arrays": [[name, a.dtype.str, list(a.shape)] for name, a in arrays.items()],
        }
    ).encode()
    # As bytes: the memory of an array without elements cannot be cast.
    parts = [_LENGTH.pack(len(header)), header, *(array.tobytes() for array in arrays.values())]
    checksum = 0
    for part in parts:
        checksum = zlib.crc32(part, checksum)
    return b"".join([_PREFIX.pack(sum(map(len, parts)), checksum), *parts])


def _decode(payload: bytes) -> Record:
    (length,) = _LENGTH.unpack_from(payload)
    position = _LENGTH.size + length
    header = json.loads(payload[_LENGTH.size : position])
    arrays = {}
    for name, dtype, shape in header["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        array = np.frombuffer(payload, dtype, count, position).reshape(shape)
        arrays[name] = array
        position += array.nbytes
    return Record(key=tuple(header["key"]), attributes=header["attributes"], arrays=arrays)


def _failed(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{path}: cannot be written ({error.strerror or error})")

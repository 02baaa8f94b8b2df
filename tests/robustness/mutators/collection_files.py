"""Feature and match files of collections, and the record files of unfinished work."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from featherglue.collection.records import Record, RecordIndex, RecordWriter
from featherglue.collection.store import Store, write_store
from featherglue.errors import StoredFileWarning
from mutators.byte_edits import Damaged, damaged
from mutators.mutator import Mutator

MANIFEST = {"kind": "features", "max_size": 1024}
RECORDS = tuple(
    Record(
        key=(name,),
        attributes={"working_size": [40, 32], "fingerprint": "0123456789abcdef"},
        arrays={
            "keypoints": np.arange(2 * count, dtype=np.float32).reshape(count, 2),
            "descriptors": np.ones((4, count), np.float16),
            "scores": np.zeros(0, np.float16),
        },
    )
    for name, count in (("a.jpg", 3), ("sub/ü b.jpg", 20), ("c.jpg", 1))
)
PAIR = Record(
    key=("a.jpg", "sub/ü b.jpg"),
    attributes={},
    arrays={"matches0": np.array([-1, 5, 2], np.int16), "alignment": np.ones((2, 3), np.float32)},
)
FAILURE = Record(key=("d.jpg",), attributes={"error": "cannot be read"})
KNOWN = {record.key: record for record in (*RECORDS, PAIR, FAILURE)}


@cache
def _file(name: str) -> bytes:
    """The content of a file of a kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        if name == "records":
            with RecordWriter(path) as writer:
                for record in (*RECORDS, FAILURE):
                    writer.append(record)
        else:
            write_store(path, MANIFEST, (*RECORDS, FAILURE) if name == "features" else [PAIR])
        return path.read_bytes()


def _check(found: Record) -> None:
    """What is read is what was written."""
    expected = KNOWN[found.key]
    assert dict(found.attributes) == dict(expected.attributes)
    assert found.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def _read_store(path: Path) -> None:
    with Store(path) as store:
        assert store.manifest == {**MANIFEST, "version": 1}
        store.attributes()
        for key, attributes in store.failures.items():
            _check(Record(key=key, attributes=attributes))
        for key in store.sorted_keys():
            _check(store.read(key))


def _read_records(path: Path) -> None:
    """The whole records are there, and others can follow."""
    for key in (index := RecordIndex([path], {})).attributes:
        _check(index.read(key))
    with RecordWriter(path) as writer:
        writer.append(PAIR)
    _check(RecordIndex([path], {}).read(PAIR.key))


def _use(case: Damaged, folder: Path) -> None:
    path = folder / "damaged"
    path.write_bytes(case.data())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", StoredFileWarning)
        (_read_records if case.seed == "records" else _read_store)(path)


_SEEDS: dict[str, Callable[[], bytes]] = {
    name: lambda name=name: _file(name)  # type: ignore[misc]
    for name in ("features", "matches", "records")
}
COLLECTIONS = Mutator(name="collections", cases=damaged(_SEEDS, max_edits=3), use=_use)

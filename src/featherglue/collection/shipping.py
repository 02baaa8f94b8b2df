"""Files and records for the workers of a cluster that do not see the folders of a task.

The sender keeps the parts of the last items in the object store of Ray. A worker fetches a part
when it works on an item that needs it, and keeps the last ones: files in a temporary folder, and
records in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from featherglue.collection.photo_frames import mask_path
from featherglue.collection.records import Key, Record
from featherglue.collection.store import Store, check_record
from featherglue.collection.tasks import Part, Place, RecordSource, ShippableTask
from featherglue.io.locks import CAN_LOCK, take_lock

_MAX_BYTES = 256_000_000  # of the parts that a sender or a worker keeps
_PROBE_BYTES = 1 << 16  # at the start of a file that identify it, with its size
_PREFIX = "featherglue-received-"  # of the temporary folders of workers
_MIN_AGE = 60.0  # s, of an abandoned folder: another worker has not locked a new one yet

# Name of a file below a folder, and its size and checksum; the name is empty for a record file.
Probe = tuple[str, tuple[int, int] | None]
Fetch = Callable[[list[Any]], list[Any]]  # the objects of references, as `ray.get`


def probe(path: Path) -> tuple[int, int] | None:
    """Size and checksum of the start of a file; None if it cannot be read."""
    try:
        with path.open("rb") as file:
            return path.stat().st_size, zlib.crc32(file.read(_PROBE_BYTES))
    except OSError:
        return None


def probes(parts: Iterable[Part]) -> dict[Path, Probe]:
    """For each folder and record file of the parts, what identifies it on another machine."""
    found: dict[Path, Probe] = {}
    for root, name in parts:
        if isinstance(name, tuple):
            found[root] = "", probe(root)
        elif root not in found or found[root][1] is None:  # the first file may not exist
            found[root] = name, probe(root / name)
    return found


def unseen(expected: Mapping[Path, Probe]) -> set[Path]:
    """The folders and record files that this machine does not see, or sees with other content."""
    return {
        root
        for root, (name, state) in expected.items()
        if state is None or probe(root / name) != state
    }


class Sender:
    """Gives workers references to the parts of a task.

    Args:
        ray: the module.
        task: the task.
    """

    def __init__(self, ray: Any, task: ShippableTask) -> None:
        self._ray, self._task = ray, task
        self._stores: dict[Path, Store] = {}
        self._sent: OrderedDict[Part, tuple[Any, int]] = OrderedDict()

    def opening(self) -> dict[Part, Any]:
        """References to the parts that opening the task needs."""
        return self._references(self._task.opening_parts())

    def manifests(self, parts: Iterable[Part]) -> dict[Path, Mapping[str, Any]]:
        """The manifests of the record files of the parts."""
        roots = {root for root, name in parts if isinstance(name, tuple)}
        return {root: self._store(root).manifest for root in roots}

    def parts(self, keys: Iterable[Key], roots: Collection[Path]) -> dict[Part, Any]:
        """References to the parts of items that are below these folders and record files."""
        wanted = [part for key in keys for part in self._task.item_parts(key) if part[0] in roots]
        return self._references(wanted) if wanted else {}

    def _references(self, parts: Iterable[Part]) -> dict[Part, Any]:
        found: dict[Part, Any] = {}
        for part in parts:
            if part not in self._sent:
                value, size = self._read(part)
                self._sent[part] = self._ray.put(value), size
            self._sent.move_to_end(part)
            found[part] = self._sent[part][0]
        while sum(size for _, size in self._sent.values()) > _MAX_BYTES and len(self._sent) > 1:
            self._sent.popitem(last=False)  # Ray keeps it while a worker needs it
        return found

    def _read(self, part: Part) -> tuple[bytes | Record | None, int]:
        """The content of a part and its size; None for a file that does not exist."""
        root, name = part
        if isinstance(name, tuple):
            record = self._store(root).read(name)
            return record, _size(record)
        try:
            content = (root / name).read_bytes()
        except FileNotFoundError:
            return None, 0
        except OSError:  # the worker reports that it cannot be read
            content = b""
        return content, len(content)

    def _store(self, path: Path) -> Store:
        if path not in self._stores:
            self._stores[path] = Store(path)
        return self._stores[path]

    def close(self) -> None:
        """Close the record files, and let Ray forget the parts."""
        self._sent.clear()
        for store in self._stores.values():
            store.close()


def _size(record: Record) -> int:
    return sum(array.nbytes for array in record.arrays.values())


class ReceivedRecords:
    """Records of a feature or match file that a worker received.

    Args:
        path: the file on the machine that sends them, for messages.
        manifest: that of the file.
    """

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.records: dict[Key, Record] = {}

    def read(
        self, key: Key, arrays: Collection[str] | None = None, *, required: str | None = None
    ) -> Record:
        """See `Store.read`."""
        record = self.records[key]
        chosen = {n: a for n, a in record.arrays.items() if arrays is None or n in arrays}
        found = Record(key=key, attributes=record.attributes, arrays=chosen)
        check_record(found, self.path, required)
        return found


class Mirror:
    """What a worker received of the folders and record files that its machine does not see.

    Args:
        roots: these folders and record files.
        manifests: of the record files among them.
        fetch: `ray.get`.
    """

    def __init__(
        self,
        roots: Iterable[Path],
        manifests: Mapping[Path, Mapping[str, Any]],
        fetch: Fetch,
    ) -> None:
        self._fetch = fetch
        self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
        self._lock = os.open(self._temporary.name, os.O_RDONLY) if CAN_LOCK else None
        if self._lock is not None:
            take_lock(self._lock)
        _remove_abandoned(Path(self._temporary.name).parent)
        self._places: dict[Path, Path | ReceivedRecords] = {}
        for number, root in enumerate(sorted(roots)):
            if root in manifests:
                self._places[root] = ReceivedRecords(root, manifests[root])
            else:
                self._places[root] = Path(self._temporary.name) / str(number)
        self._sizes: OrderedDict[Part, int] = OrderedDict()

    @property
    def roots(self) -> set[Path]:
        """The folders and record files."""
        return set(self._places)

    def folder(self, folder: Path) -> Path:
        """See `Place`."""
        place = self._places.get(folder, folder)
        assert isinstance(place, Path)
        return place

    def store(self, path: Path) -> Path | RecordSource:
        """See `Place`."""
        return self._places.get(path, path)

    def receive_all(self, references: Mapping[Part, Any]) -> None:
        """Fetch parts that remain until the end."""
        for part, value in zip(references, self._fetch(list(references.values())), strict=True):
            self._add(part, value)

    def receive(self, references: Mapping[Part, Any]) -> None:
        """Fetch the parts that are not here yet, and remove the oldest ones beyond the limit."""
        missing = [part for part in references if part not in self._sizes]
        values = self._fetch([references[part] for part in missing])
        for part, value in zip(missing, values, strict=True):
            self._sizes[part] = self._add(part, value)
        for part in references:
            self._sizes.move_to_end(part)
        while sum(self._sizes.values()) > _MAX_BYTES and len(self._sizes) > len(references):
            self._remove(self._sizes.popitem(last=False)[0])

    def _add(self, part: Part, value: bytes | Record | None) -> int:
        root, name = part
        place = self._places[root]
        if isinstance(place, ReceivedRecords):
            assert isinstance(value, Record) and isinstance(name, tuple)
            place.records[name] = value
            return _size(value)
        assert isinstance(name, str)
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(value, bytes):
            path.write_bytes(value)
            return len(value)
        return 0

    def _remove(self, part: Part) -> None:
        root, name = part
        place = self._places[root]
        if isinstance(place, ReceivedRecords):
            assert isinstance(name, tuple)
            del place.records[name]
        else:
            assert isinstance(name, str)
            (place / name).unlink(missing_ok=True)

    def close(self) -> None:
        """Remove the copies."""
        if self._lock is not None:
            os.close(self._lock)
        self._temporary.cleanup()

    def original(self, text: str) -> str:
        """A message with the paths of the sender in place of those of the copies."""
        for root, place in self._places.items():
            text = text.replace(str(place), str(root)) if isinstance(place, Path) else text
        return text


def _remove_abandoned(folder: Path) -> None:
    """Remove the copies of workers that were killed; the lock of a living worker is held."""
    for path in folder.glob(f"{_PREFIX}*") if CAN_LOCK else ():
        try:
            if time.time() - path.stat().st_mtime < _MIN_AGE:
                continue
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # of another user, or removed meanwhile
            continue
        if take_lock(descriptor):
            shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def open_records(source: Path | RecordSource) -> RecordSource:
    """Open a feature or match file, unless its records were received.

    Raises:
        StoreError: the file is missing or cannot be read.
    """
    return Store(source) if isinstance(source, Path) else source


def moved_records(source: Path | RecordSource, place: Place) -> Path | RecordSource:
    """The feature or match file at another place."""
    return place.store(source) if isinstance(source, Path) else source


def record_parts(source: Path | RecordSource, *keys: Key) -> list[Part]:
    """The records of a feature or match file, as parts; none if they were received."""
    return [(source, key) for key in keys] if isinstance(source, Path) else []


def feature_parts(images: Path, feature_file: Path | RecordSource, names: Key) -> list[Part]:
    """The images with these names and their features, as parts."""
    files: list[Part] = [(images, name) for name in names]
    return [*files, *record_parts(feature_file, *((name,) for name in names))]


def mask_parts(masks: Path | None, name: str) -> list[Part]:
    """The mask of the image with this name, which need not exist, as a part."""
    return [] if masks is None else [(masks, mask_path("", name).as_posix())]

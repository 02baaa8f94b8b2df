"""Resumable work on many items: results go to record files, and at the end to an HDF5 file."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featherglue.collection.cluster import run_cluster
from featherglue.collection.records import (
    ERROR,
    FINGERPRINT,
    Key,
    Record,
    RecordIndex,
    RecordWriter,
    with_fingerprint,
)
from featherglue.collection.store import Store, write_store
from featherglue.collection.tasks import Task
from featherglue.collection.workers import Done, run_workers
from featherglue.errors import OutputError, StoreError, short_reason
from featherglue.fingerprint import file_state
from featherglue.io.files import write_json
from featherglue.io.json import read_json
from featherglue.io.locks import claimed_folder
from featherglue.machine import num_cores
from featherglue.processes import check_num_workers

Progress = Callable[[int, int], None]
_MANIFEST = "manifest.json"
_PARAMETERS = {"max_keypoints": "num_keypoints"}  # of collections, by the setting of a session
_MIN_SHARE = 32  # items of a worker; starting it takes half a second


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """The outcome of a step of a reconstruction.

    Attributes:
        output: the file that it wrote.
        num_items: number of images or pairs.
        num_reused: number of those whose results were there before.
        failures: why an image or a pair has no result, by its key.
        notes: what the user should know, such as the loss of a worker.
    """

    output: Path
    num_items: int
    num_reused: int
    failures: Mapping[Key, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WorkResults:
    """The results of all items, while their record files exist.

    Attributes:
        read: gives the record of an item, by its key; without arrays if the work failed.
        num_reused: number of the results that were there before.
        notes: what the user should know, such as the loss of a worker.
    """

    read: Callable[[Key], Record]
    num_reused: int
    notes: tuple[str, ...]


def run_resumable(
    output: Path,
    manifest: Mapping[str, Any],
    items: Mapping[Key, str],
    task: Task,
    *,
    defaults: Mapping[str, Any] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    min_share: int | None = None,
) -> StepResult:
    """Do the work on each item whose result is missing, and write the results as a store.

    A result is reused if it has the fingerprint of its item. The record files of the work are in
    the folder `.{output.name}.parts` until the end.

    Args:
        output: path of the store.
        manifest: what determines the results beside the items.
        items: key of each item, in the order of the work, and its fingerprint.
        task: the work.
        defaults: values that a manifest has where it lacks them, such as settings that a later
            version added.
        workers: maximum number of processes; None takes one per core. Few items are done in this
            process.
        ray: address of a Ray cluster that does the work, see `run_cluster`; None works here.
        overwrite: replace results that were made with another manifest.
        progress: called with the number of items that are done and the number of all.
        min_share: minimum number of items of each process, if there are several; None takes 32.

    Raises:
        StoreError: the results of an earlier run have another manifest or are damaged, and not
            `overwrite`.
        OutputError: a file cannot be written, or another process writes the same output.
        ResourceError: worker processes are lost again and again.
        UsageError: `workers` is out of range.
    """
    _check_workers(workers, ray)
    parts, known = _parts(output), None
    if not parts.exists():
        difference = functools.partial(_difference, now=manifest, defaults=defaults or {})
        known = _open_known(output, parts, items, difference, overwrite)
        known.close()
        if output.is_file() and all(map(known.has, items)) and known.covers():
            return _result(output, items, len(items))
    with work_results(
        output,
        manifest,
        items,
        task,
        defaults=defaults,
        workers=workers,
        ray=ray,
        overwrite=overwrite,
        progress=progress,
        min_share=min_share,
        known=known,
    ) as results:
        write_store(output, manifest, map(results.read, items))
    return _result(output, items, results.num_reused, results.notes)


@contextmanager
def work_results(
    output: Path,
    manifest: Mapping[str, Any],
    items: Mapping[Key, str],
    task: Task,
    *,
    defaults: Mapping[str, Any] | None = None,
    workers: int | None = None,
    ray: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    min_share: int | None = None,
    known: _Known | None = None,
) -> Iterator[WorkResults]:
    """Do the work on each item whose result is missing, and give the results to a `with` block.

    The record files are removed at the end of the block, unless it raises. See `run_resumable` for
    the other arguments and errors; `output` need not be written.

    Args:
        min_share: minimum number of items of each process, if there are several; None takes 32.
        known: what was read of `output` before; None reads it here.
    """
    _check_workers(workers, ray)
    parts = _parts(output)
    difference = functools.partial(_difference, now=manifest, defaults=defaults or {})
    with claimed_folder(parts):
        known = _open_known(output, parts, items, difference, overwrite, known)
        known.close()
        todo = [key for key in items if not known.has(key)]
        write_json(parts / _MANIFEST, dict(manifest))
        most = max(len(todo) // (min_share or _MIN_SHARE), 1)
        count = workers if ray is not None else min(workers or num_cores(), most)
        notes = _do(task, todo, items, parts, count, ray, progress)
        results = _Known(output, parts, items, known)
        try:
            yield WorkResults(
                read=results.read, num_reused=len(items) - len(todo), notes=tuple(notes)
            )
        finally:
            results.close()
        shutil.rmtree(parts)


def _check_workers(workers: int | None, ray: str | None) -> None:
    if workers is not None and ray is None:
        check_num_workers("workers", workers)


def _parts(output: Path) -> Path:
    """Folder of the record files."""
    return output.with_name(f".{output.name}.parts")


def _do(
    task: Task,
    todo: Sequence[Key],
    items: Mapping[Key, str],
    parts: Path,
    workers: int | None,
    ray: str | None,
    progress: Progress | None,
) -> list[str]:
    """Do the work on the missing items. Returns what the user should know.

    Args:
        workers: number of processes, 1 for this one; of a cluster the maximum, or None.
    """
    count, notes = len(items) - len(todo), []
    for report in _run(task, todo, items, parts, workers, ray):
        if report.note:
            notes.append(report.note)
        else:
            count += 1
        if progress is not None:
            progress(count, len(items))
    return notes


def _result(
    output: Path, items: Mapping[Key, str], num_reused: int, notes: Sequence[str] = ()
) -> StepResult:
    with Store(output) as store:
        failures = {key: str(attributes[ERROR]) for key, attributes in store.failures.items()}
    return StepResult(
        output=output,
        num_items=len(items),
        num_reused=num_reused,
        failures=failures,
        notes=tuple(notes),
    )


def _run(
    task: Task,
    todo: Sequence[Key],
    items: Mapping[Key, str],
    parts: Path,
    workers: int | None,
    ray: str | None,
) -> Iterator[Done]:
    if ray is not None and todo:
        yield from run_cluster(task, todo, items, parts, ray, workers)
        return
    if workers is not None and workers > 1:
        yield from run_workers(task, todo, items, parts, workers)
    elif todo:
        work = task.open()
        with RecordWriter(parts / "0.records") as writer:
            for key in todo:
                writer.append(with_fingerprint(work(key), items[key]))
                yield Done(key=key)


class _Known:
    """The results of earlier runs: those of the store, and later ones in record files.

    Args:
        output: path of the store.
        parts: folder of the record files.
        items: fingerprint of each item.
        before: what was read before. Its attributes of the store are used if the file is the same:
            to read those of 100,000 pairs takes half a minute.
    """

    def __init__(
        self, output: Path, parts: Path, items: Mapping[Key, str], before: _Known | None = None
    ) -> None:
        self._items, self._state = items, file_state(output)
        self._index = RecordIndex(sorted(parts.glob("*.records")), items)
        self._store = Store(output) if output.is_file() else None
        self._failures = self._store.failures if self._store else {}
        self._stored: dict[Key, dict[str, Any]]
        if before is not None and before._state == self._state:
            self._stored = before._stored
        else:
            self._stored = {**self._failures, **(self._store.attributes() if self._store else {})}

    def has(self, key: Key) -> bool:
        """Whether there is a result with the fingerprint of the item."""
        return self._in(self._index.attributes, key) or self._in(self._stored, key)

    def _in(self, attributes: Mapping[Key, Mapping[str, Any]], key: Key) -> bool:
        return attributes.get(key, {}).get(FINGERPRINT) == self._items[key]

    def covers(self) -> bool:
        """Whether the store has all items and no others."""
        return self._stored.keys() == self._items.keys()

    def read(self, key: Key) -> Record:
        """The result of an item."""
        if self._store is None or not self._in(self._stored, key):
            return self._index.read(key)
        if key in self._failures:
            return Record(key=key, attributes=self._failures[key])
        try:
            return self._store.read(key)
        except StoreError as error:
            raise StoreError(
                f"{error}; remove {self._store.path} to compute its results again"
            ) from None

    def close(self) -> None:
        if self._store is not None:
            self._store.close()


def _open_known(
    output: Path,
    parts: Path,
    items: Mapping[Key, str],
    difference: Callable[[Mapping[str, Any]], str],
    overwrite: bool,
    before: _Known | None = None,
) -> _Known:
    """The results of earlier runs whose manifest agrees; others are removed if `overwrite`."""
    for path, read in ((output, _store_manifest), (parts / _MANIFEST, _parts_manifest)):
        if not path.is_file():
            continue
        try:
            other = difference(read(path))
            fault = other and f"was made with other settings ({other}); use another folder"
        except StoreError as error:
            fault = f"{str(error).removeprefix(f'{path}: ')}; use another file"
        if not fault:
            continue
        if not overwrite:
            raise StoreError(f"{path}: {fault}, or `overwrite`")
        _remove(path, parts)
    if parts.exists() and not (parts / _MANIFEST).is_file():  # records of unknown settings
        _remove(parts / _MANIFEST, parts)
    return _Known(output, parts, items, before)


def _remove(path: Path, parts: Path) -> None:
    """Remove the store; or all record files, and then their manifest."""
    try:
        for each in sorted(parts.iterdir()) if path.parent == parts else [path]:
            each.unlink()
    except OSError as error:
        raise OutputError(f"{path}: cannot be removed ({error.strerror})") from None


def _store_manifest(path: Path) -> dict[str, Any]:
    with Store(path) as store:
        return {name: value for name, value in store.manifest.items() if name != "version"}


def _parts_manifest(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: damaged ({short_reason(error)})") from None
    if not isinstance(found, dict):
        raise StoreError(f"{path}: damaged (not a table)")
    return found


def _difference(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any]
) -> str:
    """The first setting that differs, such as "max_size 1024, now 1600"; "" if all agree."""
    if before.get("weights") != now.get("weights"):
        return "another model"
    for name in sorted({*before, *now}):
        default = defaults.get(name)
        first, second = before.get(name, default), now.get(name, default)
        if isinstance(first, dict) and isinstance(second, dict):
            inner = _difference(first, second, default or {})
            if inner:
                return inner
        elif first != second:
            return f"{_PARAMETERS.get(name, name)} {first!r}, now {second!r}"
    return ""

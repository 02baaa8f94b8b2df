"""A worker of a cluster: an actor of Ray that does the work on items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.collection.records import ERROR, Key, Record, encode_record, with_fingerprint
from featherglue.collection.shipping import Fetch, Mirror, Probe, unseen
from featherglue.collection.tasks import Part, ShippableTask, Task
from featherglue.errors import FeatherglueError


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An error of a worker: exceptions of the package cross processes as type and text."""

    kind: type[FeatherglueError]
    text: str


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A worker that is ready.

    Attributes:
        version: of featherglue on its machine.
        unseen: folders and record files that its machine does not see.
    """

    version: str
    unseen: frozenset[Path]


class Worker:
    """Does the work on items.

    Args:
        task: the work.
        manifests: of the record files of the task.
        fetch: `ray.get`.
    """

    def __init__(
        self, task: Task, manifests: Mapping[Path, Mapping[str, Any]], fetch: Fetch
    ) -> None:
        import cv2

        cv2.setNumThreads(1)
        self._task, self._manifests, self._fetch = task, manifests, fetch
        self._mirror: Mirror | None = None
        self._work: Callable[[Key], Record] | None = None

    def open(
        self, expected: Mapping[Path, Probe], references: Mapping[Part, Any]
    ) -> Opened | Failure:
        """Open the task.

        Args:
            expected: what identifies the folders and record files of the task.
            references: to the parts that opening needs.
        """
        from featherglue import __version__

        missing = unseen(expected)
        task = self._task
        try:
            if missing and isinstance(task, ShippableTask):
                manifests = {root: m for root, m in self._manifests.items() if root in missing}
                self._mirror = Mirror(missing, manifests, self._fetch)
                self._mirror.receive_all(self._unseen(references))
                task = task.moved(self._mirror)
            self._work = task.open()
        except FeatherglueError as error:
            return self._failure(error)
        return Opened(version=__version__, unseen=frozenset(missing))

    def work(
        self, items: Sequence[tuple[Key, str]], references: Mapping[Part, Any]
    ) -> list[NDArray[np.uint8]] | Failure:
        """Records of items with their fingerprints, encoded: the writer has less to do.

        Args:
            items: the keys and their fingerprints.
            references: to the parts that the worker does not see.
        """
        assert self._work is not None
        if self._mirror is not None:
            self._mirror.receive(self._unseen(references))
        try:
            records = (with_fingerprint(self._work(key), state) for key, state in items)
            # As arrays: Ray gives them to the writer without a copy.
            return [np.frombuffer(encode_record(self._named(r)), np.uint8) for r in records]
        except FeatherglueError as error:
            return self._failure(error)

    def close(self) -> None:
        """Remove the copies of files."""
        if self._mirror is not None:
            self._mirror.close()

    def _unseen(self, references: Mapping[Part, Any]) -> dict[Part, Any]:
        """The references to parts of folders that this machine does not see."""
        roots = self._mirror.roots if self._mirror is not None else set()
        return {part: reference for part, reference in references.items() if part[0] in roots}

    def _named(self, record: Record) -> Record:
        """The record with the paths of the sender in its error."""
        if self._mirror is None or ERROR not in record.attributes:
            return record
        error = self._mirror.original(str(record.attributes[ERROR]))
        return replace(record, attributes={**record.attributes, ERROR: error})

    def _failure(self, error: FeatherglueError) -> Failure:
        text = str(error) if self._mirror is None else self._mirror.original(str(error))
        return Failure(kind=type(error), text=text)

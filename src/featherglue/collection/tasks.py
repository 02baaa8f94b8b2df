"""What workers do with the items of a collection, and the files that they read for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from featherglue.collection.records import Key, Record

# A file below a folder, with its relative path; or a record of a feature or match file.
Part = tuple[Path, str | Key]


class RecordSource(Protocol):
    """Records that can be read by key, such as those of a `Store`."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """What the file was made with; empty for a file of another program."""
        ...

    def read(
        self, key: Key, arrays: Collection[str] | None = None, *, required: str | None = None
    ) -> Record:
        """See `Store.read`."""
        ...


class Task(Protocol):
    """What is done with each item. Picklable, so that worker processes can open it."""

    def open(self) -> Callable[[Key], Record]:
        """Load what the work needs. Returns the function that makes the record of an item."""
        ...


class Place(Protocol):
    """Where a worker finds the files of a task: where they are, or as copies."""

    def folder(self, folder: Path) -> Path:
        """The folder that has the files of `folder`."""
        ...

    def store(self, path: Path) -> Path | RecordSource:
        """The feature or match file, or the records of it that the worker received."""
        ...


@runtime_checkable
class ShippableTask(Task, Protocol):
    """A task whose files can be sent to machines that do not see them."""

    def opening_parts(self) -> list[Part]:
        """What `open` reads."""
        ...

    def item_parts(self, key: Key) -> list[Part]:
        """What the work on an item reads. Files that do not exist may be among it."""
        ...

    def moved(self, place: Place) -> Task:
        """The same task with its files at another place."""
        ...

"""Files and folders that are being written, and the removal of those that a kill left behind.

A writer holds a lock (`flock`) on its partial file. The system releases it when the process ends,
however that happens. A partial file without a lock is thus abandoned, also where processes have
other numbers: in a container or on another machine of a shared folder.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from featherglue.io.locks import CAN_LOCK, take_lock

_PREFIX, _SUFFIX = ".featherglue-", ".partial"
_numbers = itertools.count()
_swept: set[Path] = set()  # folders without abandoned files; each is searched once per process


class PartialFile:
    """A file beside its later place, with a name of its own until it is complete.

    Args:
        folder: folder of the file; it must exist.
        suffix: suffix that a library needs to choose the format, such as ".mp4".

    Attributes:
        path: its present name.
        file: the open file.

    Raises:
        OSError: the file cannot be created.
    """

    def __init__(self, folder: Path, suffix: str = "") -> None:
        remove_abandoned(folder)
        self.path = _unique_name(folder, suffix)
        try:
            self.file: BinaryIO = self.path.open("wb")
        except OSError:
            self.path.unlink(missing_ok=True)
            raise
        take_lock(self.file.fileno())

    def replace(self, target: Path) -> None:
        """Give the complete file its name. Raises OSError."""
        self.file.flush()
        if not CAN_LOCK:  # where an open file cannot be renamed or removed
            self.file.close()
        self.path.replace(target)

    def discard(self) -> None:
        """Close the file, and remove it unless it has its name."""
        with suppress(OSError):  # a full disk: what is buffered cannot be written
            self.file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Make a folder that is renamed when it is complete, and removed otherwise. Raises OSError."""
    remove_abandoned(parent)
    path = _unique_name(parent)
    path.mkdir()
    descriptor = os.open(path, os.O_RDONLY) if CAN_LOCK else None
    try:
        if descriptor is not None:
            take_lock(descriptor)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _unique_name(folder: Path, suffix: str = "") -> Path:
    """A name that no other writer uses; short, so that every file system takes it."""
    return folder / f"{_PREFIX}{os.getpid()}-{next(_numbers)}{_SUFFIX}{suffix}"


def remove_abandoned(folder: Path) -> None:
    """Remove the partial files and folders of processes that were killed."""
    if folder in _swept:
        return
    _swept.add(folder)
    for path in folder.glob(f"{_PREFIX}*{_SUFFIX}*"):
        with suppress(OSError):
            _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    if not CAN_LOCK:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # The name must still belong to the opened file: its writer may have finished.
        if take_lock(descriptor) and os.path.samestat(os.fstat(descriptor), path.stat()):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        os.close(descriptor)

"""Locks of files and folders, which the system releases when their process ends.

They are advisory (`flock`). Where the system or the file system has no such locks, they are free.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from featherglue.errors import OutputError

if os.name == "posix":
    import fcntl

CAN_LOCK = os.name == "posix"


def take_lock(descriptor: int, *, wait: bool = False) -> bool:
    """Lock an open file or folder.

    Args:
        descriptor: of the file.
        wait: wait until another process releases it.

    Returns:
        Whether the lock is held now; False on a file system without locks.
    """
    if not CAN_LOCK:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


@contextmanager
def claimed_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Make a folder if it is missing, and keep other processes from claiming it meanwhile.

    Raises:
        OutputError: another process has claimed it, or it cannot be made.
    """
    descriptor = _claim(Path(folder))
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _claim(folder: Path) -> int | None:
    """The locked descriptor of a folder; None where there are no locks."""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not CAN_LOCK:
                return None
            descriptor = os.open(folder, os.O_RDONLY)
        except OSError as error:
            raise OutputError(f"{folder}: cannot be created ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), folder.stat()):
                return descriptor
        except FileNotFoundError:  # its last owner removed it
            pass
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                return descriptor  # a file system without locks
            os.close(descriptor)
            raise OutputError(
                f"{folder}: another process works in this folder; wait until it has finished, or "
                "use another folder"
            ) from None
        os.close(descriptor)

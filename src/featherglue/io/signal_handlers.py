"""Signal handlers that a library replaces when it is imported."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

# Larger than `struct sigaction` of every system.
_SIZE = 512
# The signals of which pycolmap prints a stack: glog's failure handler, which ends the process.
_NAMES = ("SIGILL", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV", "SIGTERM")


@contextmanager
def kept_signal_handlers() -> Iterator[None]:
    """Restore the handlers of fatal signals and of SIGTERM at the end of the block.

    It works in every thread, and for handlers that were not installed with `signal.signal`.
    """
    if os.name != "posix":
        yield
        return
    library = ctypes.CDLL(None)
    numbers = [int(getattr(signal, name)) for name in _NAMES]
    handlers = {number: ctypes.create_string_buffer(_SIZE) for number in numbers}
    found = [n for n, buffer in handlers.items() if library.sigaction(n, None, buffer) == 0]
    try:
        yield
    finally:
        for number in found:
            library.sigaction(number, handlers[number], None)

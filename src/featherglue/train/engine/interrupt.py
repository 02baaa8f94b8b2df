"""Ctrl-C and requests to terminate during training."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from featherglue.terminal.signals import record_signal


@contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Record the first Ctrl-C instead of raising, so that a step is finished; a second one raises.

    In a run of one process, a request to terminate (SIGTERM, as batch systems send it) counts as
    well. In a run of several, SIGTERM ends the process at once, because a process that waits for a
    peer could not finish its step. Outside the main thread, signals cannot be handled, and nothing
    changes.

    Yields:
        A function that returns whether the run must stop.
    """
    pressed = False

    def handle(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        record_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    numbers = [signal.SIGINT]
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        numbers.append(signal.SIGTERM)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield lambda: pressed
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

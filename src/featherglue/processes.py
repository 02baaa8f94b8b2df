"""Worker processes: they end with their parent, and Ctrl-C reaches the parent only."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from featherglue.errors import ResourceError, UsageError
from featherglue.machine import max_threads

_WATCH_SECONDS = 1.0  # time between two checks of the parent


def check_num_workers(name: str, count: int, minimum: int = 1) -> None:
    """Raise UsageError if a number of processes is not in the range of this machine.

    Args:
        name: name of the parameter, for the message.
        count: its value.
        minimum: minimum number.
    """
    if not minimum <= count <= max_threads():
        raise UsageError(
            f"`{name}` must be in [{minimum}, {max_threads()}] on this machine, not {count}"
        )


@contextmanager
def worker_pool(
    name: str | None, num_workers: int, initializer: Callable[..., None], *arguments: Any
) -> Iterator[ProcessPoolExecutor]:
    """A pool of spawned processes that is shut down at the end of the `with` block.

    The workers end when this process ends, however that happens.

    Args:
        name: name of the parameter that chooses the number of processes, for the message. None if
            the caller does not choose it.
        num_workers: number of processes.
        initializer: called in each process before its first task.
        *arguments: of `initializer`; they can be pickled.

    Raises:
        ResourceError: a worker was killed, mostly because memory ran out.
    """
    executor = ProcessPoolExecutor(
        num_workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(initializer, arguments),
    )
    try:
        with starting_workers():
            executor.submit(os.getpid)  # starts the processes
        yield executor
    except BrokenProcessPool:
        advice = f": use fewer `{name}`" if name and num_workers > 1 else ""
        raise ResourceError(f"a worker process died, possibly out of memory{advice}") from None
    finally:
        executor.shutdown(cancel_futures=True)


def _start_worker(initializer: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    prepare_worker()
    initializer(*arguments)


def prepare_worker() -> None:
    """Make this process a worker: it ignores Ctrl-C and ends with its parent.

    To be called first in a process that `multiprocessing` or PyTorch has started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a forked process has the parent's handler
    threading.Thread(target=_exit_with_parent, name="featherglue-parent", daemon=True).start()


def _exit_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    adopted_by = os.getppid()
    # The sentinel may be open in a process that was forked later; the parent's number is not.
    while os.getppid() == adopted_by:
        if multiprocessing.connection.wait([parent.sentinel], timeout=_WATCH_SECONDS):
            break
    os._exit(1)


@contextmanager
def starting_workers() -> Iterator[None]:
    """Processes that are started in the block never receive Ctrl-C.

    They inherit the signal mask, so that Ctrl-C prints no traceback of a process that is starting.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

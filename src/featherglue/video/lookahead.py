"""Work on what comes next while the present is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], begin: Callable[[T], Callable[[], R]]) -> Generator[R, None, None]:
    """What `begin` makes of each item, in order; a thread works on the next while one is used.

    Whoever waits for the other takes over what `begin` leaves to do: the thread finishes its item
    while the last one is still in use; where that one is done with already, the thread begins the
    next and this iteration finishes. So the slower side has the less to do.

    Whatever an item or its work raises is raised in its turn. Once the iteration is given up, at
    most one item more is taken.
    """
    iterator = iter(items)
    awaited = threading.Event()

    def take() -> Callable[[], R] | None:
        for item in iterator:
            finish = begin(item)
            if awaited.is_set():
                return finish
            found = finish()
            return lambda: found
        return None

    awaited.set()
    with ThreadPoolExecutor(1, thread_name_prefix="featherglue-ahead") as thread:
        coming = thread.submit(take)
        while True:
            awaited.set()
            finish = coming.result()
            awaited.clear()
            if finish is None:
                return
            coming = thread.submit(take)
            yield finish()

"""Work on the next item in a thread while the present one is used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def lookahead(
    items: Iterable[T], begin: Callable[[T], Callable[[], R]]
) -> Generator[R, None, None]:
    """Process items in order; a thread processes the next one while the caller uses one.

    The work on an item has two steps. `begin` does the first and returns a function for the
    second. The side that waits for the other does the second step: the thread while the caller
    still uses the previous result, the caller once it waits for the next. So the slower side has
    less to do.

    An exception of an item or its work is raised in its turn. After the generator is closed, at
    most one more item is taken.

    Args:
        items: what to process.
        begin: takes an item, does the first step, and returns the second.

    Yields:
        The result of the second step for each item.
    """
    iterator = iter(items)
    caller_waits = threading.Event()

    def take() -> Callable[[], R] | None:
        for item in iterator:
            finish = begin(item)
            if caller_waits.is_set():
                return finish
            result = finish()
            return lambda: result
        return None

    caller_waits.set()
    with ThreadPoolExecutor(1, thread_name_prefix="featherglue-lookahead") as thread:
        future = thread.submit(take)
        while True:
            caller_waits.set()
            finish = future.result()
            caller_waits.clear()
            if finish is None:
                return
            future = thread.submit(take)
            yield finish()

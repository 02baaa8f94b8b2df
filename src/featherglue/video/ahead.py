"""Work on what comes next while the present is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterable[T], work: Callable[[T], R]) -> Iterator[R]:
    """`work` of each item, in order; a thread takes and works on the next while one is used.

    Whatever an item or its work raises is raised in its turn. Once the iteration is given up, at
    most one item more is taken.
    """
    iterator = iter(items)

    def take() -> tuple[R] | None:
        for item in iterator:
            return (work(item),)
        return None

    with ThreadPoolExecutor(1, thread_name_prefix="featherglue-ahead") as thread:
        found = thread.submit(take).result()
        while found is not None:
            coming = thread.submit(take)
            yield found[0]
            found = coming.result()

"""Changes of plain values: of JSON documents, and of TOML tables."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

HOSTILE: tuple[Any, ...] = (
    *(None, True, False, "", "x", "x" * 5000, "\0", [], {}, [[]], {"": {}}, [None]),
    *(0, 1, -1, 2, 2**31, 2**63, -(2**63) - 1, 10**299, 0.5, -0.0, 1e308, 5e-324),
    *(["a", 1], {"a": 1}, [1, 2, 3], "nan", "../..", "/dev/zero"),
)


@dataclass(frozen=True)
class Change:
    """A new value at one place of a document; `remove` removes it instead.

    Attributes:
        path: numbers that choose an item of each table or list on the way.
    """

    path: tuple[int, ...]
    value: Any = None
    how: str = "set"

    def apply(self, document: Any) -> Any:
        document = copy.deepcopy(document)
        place, key = None, None
        here = document
        for number in self.path:
            keys = list(here) if isinstance(here, dict) else None
            size = len(keys) if keys is not None else len(here) if isinstance(here, list) else 0
            if size == 0:
                break
            place, key = here, keys[number % size] if keys is not None else number % size
            here = place[key]
        if place is None:
            return self.value
        if self.how == "remove":
            del place[key]
        elif self.how == "add" and isinstance(place, dict):
            place["unknown"] = self.value
        elif self.how == "repeat" and isinstance(here, list):
            place[key] = (here * 50)[:200]
        else:
            place[key] = self.value
        return document


def changes() -> st.SearchStrategy[Change]:
    """A strategy for changes of a document."""
    return st.builds(
        Change,
        path=st.lists(st.integers(0, 200), min_size=1, max_size=6).map(tuple),
        value=st.sampled_from(HOSTILE) | st.floats() | st.integers() | st.text(max_size=5),
        how=st.sampled_from(("set", "set", "set", "remove", "add", "repeat")),
    )

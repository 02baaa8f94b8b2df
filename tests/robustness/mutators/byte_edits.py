"""Damage to files: edits of bytes and of text at drawn positions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache

from hypothesis import strategies as st

# Lengths, counts and offsets at which arithmetic of 8 to 64 bits goes wrong.
NUMBERS = tuple(
    value.to_bytes(size, order)
    for size, value in (
        *((1, v) for v in (0, 1, 2, 8, 16, 127, 128, 255)),
        *((2, v) for v in (0, 1, 0x7FFF, 0x8000, 0xFFFF)),
        *((4, v) for v in (0, 1, 100_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)),
        *((8, v) for v in (1, 2**40, 2**63, 2**64 - 1)),
    )
    for order in ("little", "big")
)
_MAX_APPENDED = 100_000
_SPAN = 1 << 16  # positions are fractions of the length, in steps of 1 / _SPAN


@dataclass(frozen=True)
class Edit:
    """One change: `how` at `position` (a fraction of the length, in 1/65536), with `value`.

    Attributes:
        how: set, insert, delete, repeat, cut (drop all that follows) or append.
        near: the position counts bytes from the start, as headers are short.
    """

    how: str
    position: int
    value: bytes = b""
    length: int = 1
    near: bool = False

    def apply(self, data: bytes) -> bytes:
        at = self.position % 512 if self.near else self.position * len(data) // _SPAN
        at = min(at, len(data))
        if self.how == "set":
            return data[:at] + self.value + data[at + len(self.value) :]
        if self.how == "insert":
            return data[:at] + self.value + data[at:]
        if self.how == "delete":
            return data[:at] + data[at + self.length :]
        if self.how == "repeat":
            return data[:at] + data[at : at + self.length] * 3 + data[at + self.length :]
        if self.how == "cut":
            return data[:at]
        return data + (self.value * self.length)[:_MAX_APPENDED]


def edits(values: st.SearchStrategy[bytes] | None = None) -> st.SearchStrategy[Edit]:
    """A strategy for one edit. `values` are written by it; by default numbers and random bytes."""
    if values is None:
        values = st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=4)
    return st.builds(
        Edit,
        how=st.sampled_from(("set", "set", "set", "insert", "delete", "repeat", "cut", "append")),
        position=st.integers(0, _SPAN - 1),
        value=values,
        length=st.integers(1, 64) | st.integers(64, 5000),
        near=st.booleans(),
    )


@dataclass(frozen=True)
class Damaged:
    """The file of `seed`, changed by `edits`. The repr is all that is needed to make it again."""

    seed: str
    edits: tuple[Edit, ...]
    source: Callable[[str], bytes] = field(repr=False, compare=False)

    def data(self) -> bytes:
        data = self.source(self.seed)
        for edit in self.edits:
            data = edit.apply(data)
        return data


def damaged(
    seeds: Mapping[str, Callable[[], bytes]],
    values: st.SearchStrategy[bytes] | None = None,
    max_edits: int = 5,
) -> st.SearchStrategy[Damaged]:
    """A strategy for damaged copies of files.

    Args:
        seeds: makes each intact file, by name.
        values: see `edits`.
    """

    @cache
    def source(name: str) -> bytes:
        return seeds[name]()

    return st.builds(
        Damaged,
        seed=st.sampled_from(sorted(seeds)),
        edits=st.lists(edits(values), max_size=max_edits).map(tuple),
        source=st.just(source),
    )

"""Groups, arrays and attributes of HDF5 files, by the low-level functions of h5py.

A file of a collection has a small group for each pair. The objects of h5py take two to ten times as
long for it as these functions.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

# The low-level identifiers of h5py have no types.
Item = Any


def groups_with_arrays(file: Item) -> dict[str, set[str]]:
    """Names of the arrays of each group that has some, by the name of the group.

    The groups are in the order of their names, below the groups that they are in.

    Args:
        file: identifier of the file.
    """
    from h5py import h5o

    found: dict[str, set[str]] = {}

    def note(name: bytes, info: Any) -> None:
        text = name.decode(errors="surrogateescape")
        if info.type == h5o.TYPE_GROUP:
            found[text] = set()
        elif info.type == h5o.TYPE_DATASET:
            parent, _, leaf = text.rpartition("/")
            if parent in found:
                found[parent].add(leaf)

    h5o.visit(file, note, info=True)
    return {name: arrays for name, arrays in found.items() if arrays}


def open_group(file: Item, name: str) -> Item:
    """Open a group. Raises KeyError if the file has no item of this name."""
    from h5py import h5o

    return h5o.open(file, name.encode())


def read_arrays(group: Item, wanted: Collection[str] | None) -> dict[str, NDArray[Any]]:
    """The arrays of a group by name: the wanted ones that exist, or all for None."""
    from h5py import h5d, h5s

    found = {}
    for encoded in group:
        name = encoded.decode(errors="surrogateescape")
        if wanted is not None and name not in wanted:
            continue
        dataset = h5d.open(group, encoded)
        kind = dataset.get_type()
        array = np.empty(dataset.shape, kind.dtype)
        if array.size:
            dataset.read(h5s.ALL, h5s.ALL, array, kind)
        found[name] = array
    return found


def read_attribute(item: Item, name: str) -> Any:
    """The value of an attribute, text as str; None without it."""
    from h5py import h5a

    encoded = name.encode()
    if not h5a.exists(item, encoded):
        return None
    attribute = h5a.open(item, encoded)
    array = np.empty(attribute.shape, attribute.dtype)
    attribute.read(array)
    value: Any = array[()]
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


def create_group(file: Item, name: str) -> Item:
    """Create a group and those that it is in."""
    from h5py import h5g

    links, properties = _group_properties(name.isascii())
    return h5g.create(file, name.encode(), lcpl=links, gcpl=properties)


def write_array(group: Item, name: str, array: NDArray[Any], *, compressed: bool) -> None:
    """Write an array with a checksum.

    Args:
        group: identifier of the group.
        name: name of the array.
        array: any shape; without elements it has no checksum.
        compressed: compress it by gzip.
    """
    from h5py import h5d, h5s

    kind, space, properties = _layout(array.dtype, array.shape, compressed)
    dataset = h5d.create(group, name.encode(), kind, space, properties)
    if array.size:
        dataset.write(h5s.ALL, h5s.ALL, np.ascontiguousarray(array), kind)


@functools.lru_cache(256)  # most arrays of a file are alike
def _layout(kind: np.dtype[Any], shape: tuple[int, ...], compressed: bool) -> tuple[Any, Any, Any]:
    """Type, shape and properties of an array."""
    from h5py import h5p, h5s, h5t

    properties = h5p.create(h5p.DATASET_CREATE)
    properties.set_obj_track_times(False)
    if 0 not in shape:
        properties.set_chunk(shape)
        if compressed:
            properties.set_shuffle()
            properties.set_deflate(1)
        properties.set_fletcher32()
    return h5t.py_create(kind, logical=True), h5s.create_simple(shape), properties


def write_attribute(item: Item, name: str, value: str | np.uint32) -> None:
    """Write an attribute that does not exist yet."""
    import h5py
    from h5py import h5a, h5s, h5t

    kind = h5py.string_dtype() if isinstance(value, str) else value.dtype
    stored = h5t.py_create(kind, logical=True)
    attribute = h5a.create(item, name.encode(), stored, h5s.create(h5s.SCALAR))
    attribute.write(np.array(value, kind))


@functools.cache
def _group_properties(ascii_name: bool) -> tuple[Any, Any]:
    """Properties of the link and of the group, which has no time: equal files for equal records."""
    from h5py import h5p, h5t

    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    links.set_char_encoding(h5t.CSET_ASCII if ascii_name else h5t.CSET_UTF8)
    properties = h5p.create(h5p.GROUP_CREATE)
    properties.set_obj_track_times(False)
    return links, properties

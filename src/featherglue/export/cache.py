"""The ONNX graphs of an artifact: where they are stored, and whether they are up to date.

A written graph ends in a metadata entry that holds the CRC-32 of all bytes before it. To append an
entry to a serialized protobuf message is to add it to the message.
"""

from __future__ import annotations

import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from featherglue.artifact.format import Artifact
from featherglue.errors import RuntimeUnavailableError, StoredFileWarning
from featherglue.fingerprint import fingerprint

NETWORKS = ("extractor", "matcher")
FINGERPRINT_KEY = "fingerprint"  # in the metadata of a graph
_EXPORT_VERSION = 5
# Field numbers of ModelProto and StringStringEntryProto, from onnx.proto.
_METADATA_PROPS, _KEY, _VALUE = 14, 1, 2
# The tags and lengths of an entry with the key "checksum" and a value of eight digits.
_CHECKSUM_ENTRY = b"\x72\x14\x0a\x08checksum\x12\x08"
_NUM_DIGITS = 8


def graph_fingerprint(artifact: Artifact) -> str:
    """Fingerprint of the graphs of an artifact: of its weights and of the exporter."""
    return fingerprint("onnx", _EXPORT_VERSION, artifact.fingerprint)


def current_graphs(artifact: Artifact) -> dict[str, Path]:
    """The graph of each network, by name; exported into the cache if none is up to date.

    Graphs beside the artifact come first, then those in the cache.

    Raises:
        RuntimeUnavailableError: an export is needed and the onnx package is missing.
        OutputError: the cache cannot be written.
    """
    names = [name for name in NETWORKS if getattr(artifact.architecture, name) is not None]
    expected = graph_fingerprint(artifact)
    folders = [artifact.folder] if artifact.folder is not None else []
    for folder in (*folders, cache_folder(artifact)):
        paths = {name: folder / f"{name}.onnx" for name in names}
        if all(read_fingerprint(path) == expected for path in paths.values()):
            return paths
    _export(artifact, folder)
    return paths


def cache_folder(artifact: Artifact) -> Path:
    """Folder of the exported graphs; the environment variable FEATHERGLUE_CACHE moves its root."""
    root = os.environ.get("FEATHERGLUE_CACHE") or platformdirs.user_cache_dir("featherglue")
    return Path(root) / graph_fingerprint(artifact)


def with_checksum(graph: bytes) -> bytes:
    """A serialized graph with the metadata entry of its checksum."""
    return graph + _CHECKSUM_ENTRY + _checksum(graph)


def _checksum(graph: bytes | memoryview) -> bytes:
    return f"{zlib.crc32(graph):0{_NUM_DIGITS}x}".encode()


def _is_intact(data: memoryview) -> bool:
    """Whether the checksum is correct; graphs of version 0.1 have none."""
    end = len(data) - _NUM_DIGITS
    start = end - len(_CHECKSUM_ENTRY)
    if start < 0 or data[start:end] != _CHECKSUM_ENTRY:
        return True
    return bool(data[end:] == _checksum(data[:start]))


def read_fingerprint(path: Path) -> str | None:
    """The fingerprint in the metadata of an ONNX file; None for none, or for another file.

    A damaged graph has none, with a StoredFileWarning.
    """
    try:
        with path.open("rb") as file:
            data = memoryview(file.read())
    except OSError:
        return None
    if not _is_intact(data):
        warnings.warn(f"{path}: damaged; another graph is used", StoredFileWarning, stacklevel=2)
        return None
    found = None
    try:
        for number, value in _fields(data):  # to the end: the file may be cut off
            if number == _METADATA_PROPS:
                entry = {key: bytes(text).decode() for key, text in _fields(value)}
                if entry.get(_KEY) == FINGERPRINT_KEY:
                    found = entry.get(_VALUE)
    except (IndexError, ValueError):  # not a protobuf message
        return None
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """The length-delimited fields of a protobuf message as (number, content); others are skipped.

    The wire format: https://protobuf.dev/programming-guides/encoding/
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        kind = tag & 7
        if kind == 0:
            _, position = _varint(data, position)
        elif kind == 2:
            size, position = _varint(data, position)
            if position + size > len(data):
                raise ValueError("a field is longer than its message")
            yield tag >> 3, data[position : position + size]
            position += size
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A variable-length integer and the position after it."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")


def _export(artifact: Artifact, folder: Path) -> None:
    try:
        from featherglue.export.networks import export_onnx
    except ModuleNotFoundError:
        raise RuntimeUnavailableError(
            f"{artifact.folder}: comes without ONNX graphs, and making them needs the onnx "
            "package: pip install 'featherglue[export]'"
        ) from None
    export_onnx(artifact, folder)

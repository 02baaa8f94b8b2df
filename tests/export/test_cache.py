"""Fingerprints of exported graphs."""

from __future__ import annotations

import zlib
from pathlib import Path

import onnx
import pytest

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model, shipped_models
from featherglue.errors import StoredFileWarning
from featherglue.export.cache import (
    cache_folder,
    current_graphs,
    graph_fingerprint,
    read_fingerprint,
)
from featherglue.export.networks import export_onnx


def test_the_fingerprint_is_read_from_the_metadata(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    artifact = load_artifact(folders["one-head"])
    for path in export_onnx(artifact, tmp_path):
        assert read_fingerprint(path) == graph_fingerprint(artifact)
        stored = {p.key: p.value for p in onnx.load(path).metadata_props}
        assert stored["fingerprint"] == graph_fingerprint(artifact)
        assert int(stored["checksum"], 16) == zlib.crc32(path.read_bytes()[:-22])


@pytest.mark.parametrize("name", shipped_models())
def test_the_graphs_of_shipped_models_are_current(name: str) -> None:
    """They are never exported: a base installation has no onnx package."""
    artifact = load_artifact(find_model(name))
    assert {path.parent for path in current_graphs(artifact).values()} == {find_model(name)}


@pytest.mark.filterwarnings("ignore::featherglue.errors.StoredFileWarning")
def test_other_files_have_none(folders: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    assert read_fingerprint(path) is None
    exported = export_onnx(load_artifact(folders["one-head"]), tmp_path / "graphs")[0]
    data = exported.read_bytes()
    for damaged in (b"", b"\xff" * 40, data[:-5], data[3:], b"\x72\xff\xff\xff\xff\x0f"):
        path.write_bytes(damaged)
        assert read_fingerprint(path) is None
    model = onnx.load(exported)
    model.metadata_props[0].key = "author"
    onnx.save(model, path)
    assert read_fingerprint(path) is None


def test_damaged_graphs_are_exported_again(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERGLUE_CACHE", str(tmp_path))
    artifact = load_artifact(folders["one-head"])
    for path in current_graphs(artifact).values():
        intact = path.read_bytes()
        for position in range(0, len(intact) - 22, len(intact) // 7):
            path.write_bytes(
                intact[:position] + bytes([intact[position] ^ 16]) + intact[position + 1 :]
            )
            with pytest.warns(StoredFileWarning, match=f"{path.name}: damaged"):
                current_graphs(artifact)
            assert path.read_bytes() == intact


def test_current_graphs_are_exported_once(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEATHERGLUE_CACHE", str(tmp_path))
    artifact = load_artifact(folders["one-head"])
    graphs = current_graphs(artifact)
    assert {path.parent for path in graphs.values()} == {cache_folder(artifact)}
    made = {path: path.stat().st_mtime_ns for path in graphs.values()}
    assert current_graphs(artifact) == graphs
    assert {path: path.stat().st_mtime_ns for path in graphs.values()} == made

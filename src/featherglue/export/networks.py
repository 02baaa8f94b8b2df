"""Export of the two networks of an artifact as ONNX graphs.

Batch normalization is folded, consecutive linear layers are merged, and the matcher processes both
images as one batch. Linear quantization becomes QuantizeLinear and DequantizeLinear nodes (QDQ), so
that runtimes use integer kernels.
"""

from __future__ import annotations

import os
from pathlib import Path

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.errors import UsageError
from featherglue.export.cache import FINGERPRINT_KEY, graph_fingerprint, with_checksum
from featherglue.export.extractor import extractor_graph
from featherglue.export.matcher import matcher_graph
from featherglue.io.files import atomic_write


def export_onnx(artifact: Artifact, folder: str | os.PathLike[str]) -> list[Path]:
    """Write extractor.onnx and matcher.onnx, for the networks of the artifact, to a folder.

    The metadata of a graph holds its fingerprint and a checksum; see `export.cache`.

    Returns:
        Paths of the files.

    Raises:
        UsageError: the artifact has not been saved, so it has no fingerprint.
        OutputError: the folder cannot be written.
    """
    if not artifact.hash:
        raise UsageError("artifact must be saved before its export")
    folded = fold_batch_norm(artifact)
    metadata = {FINGERPRINT_KEY: graph_fingerprint(artifact)}
    built: dict[str, bytes] = {}
    if folded.architecture.extractor is not None:
        graph = extractor_graph(folded.arrays, folded.quantization)
        built["extractor.onnx"] = graph.build(metadata)
    if folded.architecture.matcher is not None:
        graph = matcher_graph(folded.arrays, folded.architecture.matcher, folded.quantization)
        built["matcher.onnx"] = graph.build(metadata)
    paths = []
    for name, data in built.items():
        path = Path(folder) / name
        with atomic_write(path) as file:
            file.write(with_checksum(data))
        paths.append(path)
    return paths

"""Artifact → ONNX graphs, written for speed on a CPU.

Batch normalisation is folded, both images go through the matcher as one batch, linear maps that
follow each other are one, and no two halves are concatenated only to be multiplied. What is
quantized linearly, weights and activations, is written so that runtimes compute with whole numbers.
"""

from __future__ import annotations

import os
from pathlib import Path

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.errors import UsageError
from featherglue.export.cache import FINGERPRINT_KEY, graph_fingerprint
from featherglue.export.extractor import extractor_graph
from featherglue.export.matcher import matcher_graph
from featherglue.io.files import atomic


def export_onnx(artifact: Artifact, folder: str | os.PathLike[str]) -> list[Path]:
    """Write extractor.onnx and matcher.onnx (those that the artifact has) into a folder.

    Raises:
        UsageError: the artifact was never saved, so that the graphs could not be told from others.
        OutputError: the folder cannot be written.
    """
    if not artifact.hash:
        raise UsageError("save the artifact before exporting it")
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
        with atomic(path) as file:
            file.write(data)
        paths.append(path)
    return paths

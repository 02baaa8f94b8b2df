"""Where the ONNX graphs of an artifact are, and what goes into them: shared by the runtimes that
run them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact
from featherglue.errors import RuntimeUnavailableError

Float = NDArray[np.float32]
NETWORKS = ("extractor", "matcher")
_EXPORT_VERSION = 4
_PADDING_BIAS = np.float32(-1e9)


def graph_mark(artifact: Artifact) -> str:
    """What a graph carries to tell which model and which exporter it was made from."""
    return f"featherglue-export-{_EXPORT_VERSION}-{artifact.identity}"


def graph_paths(artifact: Artifact) -> dict[str, Path]:
    """The graph file of each network: beside the artifact, or in the cache, made if need be.

    Raises:
        RuntimeUnavailableError: there is none, and the onnx package that makes one is missing.
    """
    names = [name for name in NETWORKS if getattr(artifact.architecture, name) is not None]
    if artifact.folder is not None:
        beside = {name: artifact.folder / f"{name}.onnx" for name in names}
        if all(_belongs(path, artifact) for path in beside.values()):
            return beside
    folder = cache_folder(artifact)
    cached = {name: folder / f"{name}.onnx" for name in names}
    if not all(_belongs(path, artifact) for path in cached.values()):
        _export(artifact, folder)
    return cached


def _belongs(path: Path, artifact: Artifact) -> bool:
    return path.is_file() and graph_mark(artifact).encode() in path.read_bytes()


def cache_folder(artifact: Artifact) -> Path:
    """Where the graphs of an artifact are kept; FEATHERGLUE_CACHE overrides the user's cache."""
    root = os.environ.get("FEATHERGLUE_CACHE") or platformdirs.user_cache_dir("featherglue")
    return Path(root) / f"{artifact.identity[:16]}-{_EXPORT_VERSION}"


def _export(artifact: Artifact, folder: Path) -> None:
    try:
        from featherglue.export.networks import export_onnx
    except ModuleNotFoundError:
        raise RuntimeUnavailableError(
            f"{artifact.folder}: comes without ONNX graphs, and making them needs the onnx "
            "package: pip install 'featherglue[export]'"
        ) from None
    export_onnx(artifact, folder)


def matcher_inputs(
    keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
) -> dict[str, Float]:
    """The inputs of the matcher's graph: both images as one batch, the shorter one padded.

    Args:
        keypoints0: (N0, 3), descriptors0: (N0, D); the same of image 1.

    Returns:
        keypoints (2, N, 3), descriptors (2, N, D), bias (2, 1, N): a large negative number where
        padded; N = max(N0, N1).
    """
    counts = len(keypoints0), len(keypoints1)
    size = max(counts)
    bias = np.zeros((2, 1, size), np.float32)
    for i, count in enumerate(counts):
        bias[i, :, count:] = _PADDING_BIAS
    return {
        "keypoints": _stack(keypoints0, keypoints1, size),
        "descriptors": _stack(descriptors0, descriptors1, size),
        "bias": bias,
    }


def _stack(first: Float, second: Float, size: int) -> Float:
    both = np.zeros((2, size, first.shape[1]), np.float32)
    both[0, : len(first)] = first
    both[1, : len(second)] = second
    return both

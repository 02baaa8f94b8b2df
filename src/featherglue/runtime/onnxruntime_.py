"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnxruntime
import platformdirs
from numpy.typing import NDArray

from featherglue.artifact import Artifact
from featherglue.errors import RuntimeUnavailableError

Float = NDArray[np.float32]
EXPORT_VERSION = "1"
_PADDING_BIAS = np.float32(-1e9)
_NAMES = ("extractor", "matcher")


class OnnxRuntime:
    """Runs the ONNX graphs that lie beside the artifact, or makes them in the user's cache."""

    name = "onnxruntime"

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        present = [name for name in _NAMES if getattr(artifact.architecture, name) is not None]
        self._sessions = {name: _open(artifact, name, options) for name in present}

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        scores, descriptors = self._sessions["extractor"].run(None, {"image": image[None, None]})
        return scores[0, 0], descriptors[0]

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        counts = len(keypoints0), len(keypoints1)
        size = max(counts)
        bias = np.zeros((2, 1, size), np.float32)
        for i, count in enumerate(counts):
            bias[i, :, count:] = _PADDING_BIAS
        inputs = {
            "keypoints": _stack(keypoints0, keypoints1, size),
            "descriptors": _stack(descriptors0, descriptors1, size),
            "bias": bias,
        }
        (scores,) = self._sessions["matcher"].run(None, inputs)
        matrix: Float = scores[: counts[0], : counts[1]]
        return matrix


def _stack(first: Float, second: Float, size: int) -> Float:
    both = np.zeros((2, size, first.shape[1]), np.float32)
    both[0, : len(first)] = first
    both[1, : len(second)] = second
    return both


def _open(
    artifact: Artifact, name: str, options: onnxruntime.SessionOptions
) -> onnxruntime.InferenceSession:
    beside = artifact.folder / f"{name}.onnx" if artifact.folder else None
    if beside is not None and beside.is_file():
        session = _session(beside, options)
        if _belongs(session, artifact):
            return session
    cached = cache_folder(artifact) / f"{name}.onnx"
    if not cached.is_file():
        _export(artifact, cached.parent)
    return _session(cached, options)


def _session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types without a common base
        raise RuntimeUnavailableError(
            f"{path}: ONNX Runtime cannot load this graph ({error}); remove the file to have it "
            "made again"
        ) from None


def _belongs(session: onnxruntime.InferenceSession, artifact: Artifact) -> bool:
    metadata = session.get_modelmeta().custom_metadata_map
    return bool(
        metadata.get("weights") == artifact.hash and metadata.get("export") == EXPORT_VERSION
    )


def cache_folder(artifact: Artifact) -> Path:
    """Where the graphs of an artifact are kept; FEATHERGLUE_CACHE overrides the user's cache."""
    root = os.environ.get("FEATHERGLUE_CACHE") or platformdirs.user_cache_dir("featherglue")
    return Path(root) / f"{artifact.hash[:16]}-{EXPORT_VERSION}"


def _export(artifact: Artifact, folder: Path) -> None:
    try:
        from featherglue.runtime.export import export_onnx
    except ModuleNotFoundError:
        raise RuntimeUnavailableError(
            f"{artifact.folder}: comes without ONNX graphs, and making them needs the onnx "
            "package: pip install 'featherglue[export]'"
        ) from None
    export_onnx(artifact, folder)

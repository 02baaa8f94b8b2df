"""OpenVINO on the CPU (extra `openvino`)."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact
from featherglue.errors import RuntimeUnavailableError
from featherglue.export.cache import graph_paths, matcher_inputs

Float = NDArray[np.float32]


class OpenVinoRuntime:
    """Runs the ONNX graphs of an artifact, compiled by OpenVINO, in float32."""

    name = "openvino"

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = openvino.Core()
        paths = graph_paths(artifact)
        self._requests = {name: _open(core, path, settings) for name, path in paths.items()}
        self._locks = {name: threading.Lock() for name in paths}

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        # A request owns its outputs, writes over them in the next call, and is not for threads.
        with self._locks["extractor"]:
            outputs = self._requests["extractor"].infer({"image": image[None, None]})
            return outputs["scores"][0, 0].copy(), outputs["descriptors"][0].copy()

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        inputs = matcher_inputs(keypoints0, descriptors0, keypoints1, descriptors1)
        with self._locks["matcher"]:
            scores = self._requests["matcher"].infer(inputs)["scores"]
            matrix: Float = scores[: len(keypoints0), : len(keypoints1)].copy()
        return matrix


def _open(core: openvino.Core, path: Path, settings: dict[str, Any]) -> openvino.InferRequest:
    try:
        return core.compile_model(path, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise RuntimeUnavailableError(
            f"{path}: OpenVINO cannot compile this graph ({error}); try --runtime onnxruntime"
        ) from None

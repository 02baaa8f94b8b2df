"""OpenVINO on the CPU (extra `openvino`)."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from featherglue.errors import FeatherglueError, ResourceError, RuntimeUnavailableError
from featherglue.machine import exhausted_resource, num_cores
from featherglue.runtime.batch import matcher_inputs

Float = NDArray[np.float32]


class OpenVinoRuntime:
    """Runs ONNX graphs, given by network, compiled by OpenVINO, in float32."""

    name = "openvino"
    bfloat16 = False

    def __init__(self, graphs: Mapping[str, Path], threads: int | None) -> None:
        self.threads = threads or num_cores()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        core = _core(os.getpid())
        self._requests = {name: _open(core, path, settings) for name, path in graphs.items()}
        self._locks = {name: threading.Lock() for name in graphs}

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        # A request reuses its output buffers and is not thread-safe.
        with self._locks["extractor"]:
            outputs = self._infer("extractor", {"image": image[None, None]})
            return outputs["scores"][0, 0].copy(), outputs["descriptors"][0].copy()

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        inputs = matcher_inputs(keypoints0, descriptors0, keypoints1, descriptors1)
        with self._locks["matcher"]:
            scores = self._infer("matcher", inputs)["scores"]
            matrix: Float = scores[: len(keypoints0), : len(keypoints1)].copy()
        return matrix

    def _infer(self, name: str, inputs: dict[str, Any]) -> Any:
        try:
            return self._requests[name].infer(inputs)
        except RuntimeError as error:
            raise _fault(error, f"OpenVINO cannot run the {name}") from None


@cache
def _core(process: int) -> openvino.Core:
    """One core for the process, which is never destroyed.

    Each core installs a stack for signal handlers and, when it is destroyed, restores the stack
    that it found. That of another core may be gone by then, and the next signal, such as Ctrl-C,
    would crash Python. A forked process needs a core of its own.
    """
    del process
    return openvino.Core()


def _open(core: openvino.Core, path: Path, settings: dict[str, Any]) -> openvino.InferRequest:
    try:
        return core.compile_model(path, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise _fault(error, f"{path}: OpenVINO cannot compile this graph") from None


def _fault(error: RuntimeError, what: str) -> FeatherglueError:
    lack = exhausted_resource(error)
    if lack:
        return ResourceError(f"{what}: {lack}")
    return RuntimeUnavailableError(f"{what} ({error}); try `runtime='onnxruntime'`")

"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ResourceError, RuntimeUnavailableError
from featherglue.machine import exhausted_resource, num_cores
from featherglue.runtime.batch import matcher_inputs

# ONNX Runtime reads it on import. Without it, version 1.32 writes an identifier of the device to
# the home folder and contacts its vendor.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

Float = NDArray[np.float32]

# First version of ONNX Runtime with a configurable spin duration.
_BOUNDED_SPINNING = (1, 26)


class OnnxRuntime:
    """Runs ONNX graphs, given by network: "extractor", "matcher" or both."""

    name = "onnxruntime"
    bfloat16 = False

    def __init__(self, graphs: Mapping[str, Path], threads: int | None) -> None:
        self.threads = threads or num_cores()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # exceptions carry the messages of errors
        if threads is not None:
            options.intra_op_num_threads = threads
        key, value = _spinning(onnxruntime.__version__)
        options.add_session_config_entry(key, value)
        self._sessions = {name: _open(path, options) for name, path in graphs.items()}

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        scores, descriptors = self._run("extractor", {"image": image[None, None]})
        return scores[0, 0], descriptors[0]

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        inputs = matcher_inputs(keypoints0, descriptors0, keypoints1, descriptors1)
        (scores,) = self._run("matcher", inputs)
        matrix: Float = scores[: len(keypoints0), : len(keypoints1)]
        return matrix

    def _run(self, name: str, inputs: dict[str, Any]) -> list[Any]:
        try:
            outputs: list[Any] = self._sessions[name].run(None, inputs)
        except Exception as error:  # no common base class
            sizes = ", ".join("×".join(map(str, array.shape)) for array in inputs.values())
            lack = exhausted_resource(error)
            if lack:
                raise ResourceError(
                    f"{lack}: the {name} runs on {sizes}; reduce `resize` or `max_keypoints`"
                ) from None
            raise RuntimeUnavailableError(
                f"ONNX Runtime cannot run the {name} on {sizes} ({error})"
            ) from None
        return outputs


def _spinning(version: str) -> tuple[str, str]:
    """The session configuration entry that limits how long idle threads spin.

    Spinning threads occupy the cores that the other network, the decoding and other programs
    need: on two cores a frame takes 52 ms with the default and 31 ms without spinning. Spinning
    for 20 µs saves the wake-up between operators (29.3 → 28.4 ms; 10.5 → 8.9 ms at 320×240).
    Versions before 1.26 cannot limit it, so it is switched off there.
    """
    numbers = re.findall(r"\d+", version)
    if tuple(map(int, numbers[:2])) >= _BOUNDED_SPINNING:
        return "session.intra_op.spin_duration_us", "20"
    return "session.intra_op.allow_spinning", "0"


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types without a common base
        lack = exhausted_resource(error)
        if lack:
            raise ResourceError(f"{path}: {lack}") from None
        raise RuntimeUnavailableError(
            f"{path}: ONNX Runtime cannot load this graph ({error}); remove the file to export "
            "it again"
        ) from None

"""ONNX Runtime on the CPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact
from featherglue.errors import RuntimeUnavailableError
from featherglue.export.cache import graph_paths, matcher_inputs

Float = NDArray[np.float32]

# The first version that takes a time for which threads spin.
_BOUNDED_SPINNING = (1, 26)


class OnnxRuntime:
    """Runs the ONNX graphs of an artifact."""

    name = "onnxruntime"

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        key, value = _waiting(onnxruntime.__version__)
        options.add_session_config_entry(key, value)
        paths = graph_paths(artifact)
        self._sessions = {name: _open(path, options) for name, path in paths.items()}

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
        except Exception as error:  # as in `_open`; memory that is not there, mostly
            sizes = ", ".join("×".join(map(str, array.shape)) for array in inputs.values())
            raise RuntimeUnavailableError(
                f"ONNX Runtime cannot run the {name} on {sizes} ({error}); smaller images "
                "(--resize) and fewer keypoints (--max-keypoints) need less memory"
            ) from None
        return outputs


def _waiting(version: str) -> tuple[str, str]:
    """How threads wait for work, as an entry of the session's configuration.

    Those that spin for as long as they do by default take the cores from the other network, from
    decoding and from other programs: a frame took 52 ms with them and 31 ms without, on two cores.
    To spin a little saves waking up for every operator: 29.3 → 28.4 ms, of 320×240 10.5 → 8.9;
    with both cores taken by others, 57 → 63. Older versions spin for long or not at all.
    """
    numbers = re.findall(r"\d+", version)
    if tuple(map(int, numbers[:2])) >= _BOUNDED_SPINNING:
        return "session.intra_op.spin_duration_us", "20"
    return "session.intra_op.allow_spinning", "0"


def _open(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises its own types without a common base
        raise RuntimeUnavailableError(
            f"{path}: ONNX Runtime cannot load this graph ({error}); remove the file to have it "
            "made again"
        ) from None

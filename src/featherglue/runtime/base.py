"""The protocol of a runtime, and the choice of one."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact
from featherglue.errors import RuntimeUnavailableError
from featherglue.export.cache import current_graphs
from featherglue.options import RuntimeName, checked
from featherglue.runtime.native_ import NativeRuntime, is_fastest

Float = NDArray[np.float32]


class Runtime(Protocol):
    """The two networks of one artifact, loaded and ready.

    Shape legend: H×W pixels, multiples of 8; Hc = H/8, Wc = W/8; N0, N1 ≥ 1 keypoints.

    Attributes:
        name: name of the runtime, see `options.RuntimeName`.
        threads: maximum number of threads of the networks, and of the steps between them.
        bfloat16: whether the products of the matcher are in bfloat16.
    """

    name: str
    threads: int
    bfloat16: bool

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        """Run the extractor.

        Args:
            image: (H, W) gray uint8.

        Returns:
            Scores (H, W) in [0, 1] before non-maximum suppression; descriptors (Hc, Wc, D), not
            normalized.
        """
        ...

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        """Run the matcher.

        Args:
            keypoints0: (N0, 3): x and y, normalized by (k − size/2) / (0.7·max(size)), and score.
            descriptors0: (N0, D), L2-normalized.
            keypoints1: (N1, 3), of the other image.
            descriptors1: (N1, D).

        Returns:
            Score matrix (N0, N1), before the optimal matching layer.
        """
        ...


def open_runtime(artifact: Artifact, name: RuntimeName, threads: int | None) -> Runtime:
    """Load the networks of an artifact into a runtime; ONNX graphs are exported if they are stale.

    Args:
        artifact: the model.
        name: "auto" is the compiled kernels where they are the fastest, else ONNX Runtime.
        threads: maximum number of threads; None for as many as the runtime
            chooses.

    Raises:
        UsageError: an unknown runtime, or fewer than one thread.
        RuntimeUnavailableError: the runtime is not installed or cannot run this model.
    """
    checked("runtime", name)
    checked("threads", threads)
    if name == "torch":
        try:
            from featherglue.runtime.torch_ import TorchRuntime
        except ModuleNotFoundError as error:
            raise RuntimeUnavailableError(
                f"the torch runtime needs PyTorch ({error}): pip install 'featherglue[train]'"
            ) from None
        return TorchRuntime(artifact, threads)
    if name == "openvino":
        try:
            from featherglue.runtime.openvino_ import OpenVinoRuntime
        except ModuleNotFoundError:
            raise RuntimeUnavailableError(
                "the openvino runtime is not installed: pip install 'featherglue[openvino]'"
            ) from None
        return OpenVinoRuntime(current_graphs(artifact), threads)
    if name == "sparse":
        from featherglue.runtime.sparse_ import SparseRuntime

        return SparseRuntime(artifact, threads)
    if name == "native" or (name == "auto" and automatic_runtime(artifact) == "native"):
        return NativeRuntime(artifact, threads)
    from featherglue.runtime.onnxruntime_ import OnnxRuntime

    return OnnxRuntime(current_graphs(artifact), threads)


def automatic_runtime(artifact: Artifact) -> RuntimeName:
    """The runtime that "auto" stands for: the compiled kernels where they are the fastest."""
    return "native" if is_fastest(artifact) else "onnxruntime"

"""The protocol of a runtime, and the choice of one."""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.format import Artifact
from featherglue.errors import RuntimeUnavailableError, UsageError

Float = NDArray[np.float32]
RuntimeName = Literal["auto", "onnxruntime", "openvino", "torch"]
RUNTIMES = ("auto", "onnxruntime", "openvino", "torch")


class Runtime(Protocol):
    """The two networks of one artifact, loaded and ready.

    Shape legend: H×W pixels, multiples of 8; Hc = H/8, Wc = W/8; N0, N1 ≥ 1 keypoints.
    """

    name: str

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        """Run the extractor.

        Args:
            image: (H, W) grey uint8.

        Returns:
            scores (H, W) in [0, 1] before suppression; descriptors (Hc, Wc, D), not normalised.
        """
        ...

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        """Run the matcher.

        Args:
            keypoints0: (N0, 3) x and y normalised by (k − size/2) / (0.7·max(size)), and score.
            descriptors0: (N0, D), L2-normalised. keypoints1, descriptors1: of the other image.

        Returns:
            score matrix (N0, N1), before the optimal matching layer.
        """
        ...


def check_runtime(name: str, threads: int | None) -> None:
    """Raise UsageError where there is no such runtime, or for fewer than one thread."""
    if name not in RUNTIMES:
        raise UsageError(f"no runtime {name!r}; there are {', '.join(RUNTIMES)}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, not {threads}")


def open_runtime(artifact: Artifact, name: RuntimeName, threads: int | None) -> Runtime:
    """Load an artifact into a runtime.

    Args:
        name: "auto" is ONNX Runtime.
        threads: that the networks may use; None for one per physical core.

    Raises:
        UsageError: no such runtime, or fewer than one thread.
        RuntimeUnavailableError: the runtime is not installed or cannot run this model.
    """
    check_runtime(name, threads)
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
        return OpenVinoRuntime(artifact, threads)
    from featherglue.runtime.onnxruntime_ import OnnxRuntime

    return OnnxRuntime(artifact, threads)

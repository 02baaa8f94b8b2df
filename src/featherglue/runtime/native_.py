"""The networks in C, compiled when featherglue is installed: the fastest runtime on x86-64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.errors import ResourceError, RuntimeUnavailableError
from featherglue.machine import exhausted_resource, num_cores
from featherglue.native.library import (
    library,
    library_name,
    missing_reason,
    multiplies_bfloat16,
)
from featherglue.native.network_kernels import extract_network, match_network
from featherglue.runtime.kernel_weights import extractor_weights, matcher_weights

Float = NDArray[np.float32]

_MAX_STEPS, _MAX_LAYERS = 8, 64  # of a matcher: its keypoint encoder and its attention layers


class NativeRuntime:
    """Runs the networks of an artifact in float32, and attention layers in bfloat16 if possible.

    Where the processor multiplies bfloat16, the products of the attention layers are in it, with
    sums in float32.

    Attributes:
        threads: maximum number of threads.
        bfloat16: whether they are.
    """

    name = "native"

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        obstacle = native_obstacle(artifact)
        if obstacle:
            raise RuntimeUnavailableError(f"{obstacle}; use `runtime='onnxruntime'`")
        self.threads = num_cores() if threads is None else threads
        self.bfloat16 = multiplies_bfloat16()
        folded = fold_batch_norm(artifact)
        networks = folded.architecture
        self._extractor = extractor_weights(folded.arrays) if networks.extractor else None
        self._matcher = (
            matcher_weights(folded.arrays, networks.matcher) if networks.matcher else None
        )

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        assert self._extractor is not None
        try:
            return extract_network(
                self._extractor.plan, self._extractor.weights, image, self.threads
            )
        except MemoryError as error:
            raise ResourceError(
                f"{exhausted_resource(error)}: the extractor runs on "
                f"{image.shape[1]}×{image.shape[0]} pixels; reduce `resize`"
            ) from None

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        assert self._matcher is not None
        try:
            return match_network(
                self._matcher.plan,
                self._matcher.weights,
                (keypoints0, keypoints1),
                (descriptors0, descriptors1),
                self.threads,
                self.bfloat16,
            )
        except MemoryError as error:
            raise ResourceError(
                f"{exhausted_resource(error)}: the matcher runs on {len(keypoints0)} and "
                f"{len(keypoints1)} keypoints; reduce `max_keypoints`"
            ) from None


def native_obstacle(artifact: Artifact) -> str:
    """Why the kernels cannot run a model; "" if they can."""
    if library() is None:
        return f"the kernels are {missing_reason()}"
    extractor, matcher = artifact.architecture.extractor, artifact.architecture.matcher
    if artifact.quantization.activations:
        return "the kernels do not run models with quantized activations"
    if extractor is not None and extractor.descriptor_dim % 8:
        return "the kernels need a descriptor_dim that is a multiple of 8"
    if matcher is not None and (
        len(matcher.keypoint_encoder) >= _MAX_STEPS or len(matcher.layers) > _MAX_LAYERS
    ):
        return f"the kernels run at most {_MAX_LAYERS} attention layers"
    return ""


def is_fastest(artifact: Artifact) -> bool:
    """Whether the kernels run a model, and faster than other runtimes."""
    return library_name() == "libkernels_x86_64_v3" and not native_obstacle(artifact)

"""Pruned networks in C kernels that skip zero weights.

A network that has few zeros, or that the kernels cannot run, runs in the runtime of dense models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import Artifact
from featherglue.artifact.layers import layers
from featherglue.config import ArchitectureConfig
from featherglue.errors import ResourceError, RuntimeUnavailableError
from featherglue.export.cache import current_graphs
from featherglue.machine import exhausted_resource, num_cores
from featherglue.native.library import missing_reason
from featherglue.native.sparse_networks import (
    PackedNetwork,
    extract_sparse,
    match_sparse,
    runs_sparse_networks,
)
from featherglue.runtime.native_ import NativeRuntime, is_fastest
from featherglue.runtime.sparse_weights import (
    can_pack_extractor,
    can_pack_matcher,
    pack_extractor,
    pack_matcher,
)

if TYPE_CHECKING:
    from featherglue.runtime.base import Runtime

Float = NDArray[np.float32]
T = TypeVar("T")

# Fraction of zeros from which a network is faster here than in other runtimes. Dense 3×3
# convolutions need a quarter of the products with Winograd's algorithm, which fills in the zeros.
MIN_ZEROS = {"extractor": 0.85, "matcher": 0.6}


class SparseRuntime:
    """Runs each network of an artifact that has enough zeros without them.

    Attributes:
        engines: network → name of the runtime that it runs in.
        threads: maximum number of threads.
        bfloat16: whether the products of the matcher are in bfloat16: in another runtime.
    """

    name = "sparse"

    def __init__(self, artifact: Artifact, threads: int | None) -> None:
        if not runs_sparse_networks():
            reason = missing_reason()
            raise RuntimeUnavailableError(
                "the sparse runtime needs a processor with AVX2, and the kernels"
                + (f", which are {reason}" if reason else "")
                + "; use `runtime='onnxruntime'`"
            )
        self.threads = num_cores() if threads is None else threads
        self._packed = _pack(artifact)
        fractions = zero_fractions(artifact)
        if not self._packed:
            found = ", ".join(f"{name} {zeros:.0%}" for name, zeros in fractions.items())
            least = " or ".join(f"{MIN_ZEROS[name]:.0%} in the {name}" for name in fractions)
            raise RuntimeUnavailableError(
                f"the sparse runtime needs zero weights, at least {least}, and activations that "
                f"are not quantized; this model has: {found}. Prune it, or use `runtime='auto'`"
            )
        self._others: dict[str, Runtime] = {
            name: _dense_runtime(_part(artifact, name), threads)
            for name in fractions
            if name not in self._packed
        }
        self.bfloat16 = "matcher" in self._others and self._others["matcher"].bfloat16
        self.engines = {
            name: self._others[name].name if name in self._others else self.name
            for name in fractions
        }

    def extract(self, image: NDArray[np.uint8]) -> tuple[Float, Float]:
        if "extractor" in self._others:
            return self._others["extractor"].extract(image)
        try:
            return extract_sparse(self._packed["extractor"], image, self.threads)
        except MemoryError as error:
            size = "×".join(map(str, image.shape[::-1]))
            raise ResourceError(
                f"{exhausted_resource(error)}: the extractor runs on {size} px; reduce `resize`"
            ) from None

    def match(
        self, keypoints0: Float, descriptors0: Float, keypoints1: Float, descriptors1: Float
    ) -> Float:
        if "matcher" in self._others:
            return self._others["matcher"].match(keypoints0, descriptors0, keypoints1, descriptors1)
        both, described = (keypoints0, keypoints1), (descriptors0, descriptors1)
        try:
            return match_sparse(self._packed["matcher"], both, described, self.threads)
        except MemoryError as error:
            sizes = " and ".join(str(len(points)) for points in both)
            raise ResourceError(
                f"{exhausted_resource(error)}: the matcher runs on {sizes} keypoints; reduce "
                "`max_keypoints`"
            ) from None


def zero_fractions(artifact: Artifact) -> dict[str, float]:
    """Fraction of zeros among the weights of each network, in [0, 1], without biases."""
    zeros: dict[str, int] = {}
    total: dict[str, int] = {}
    for layer in layers(artifact.architecture):
        weight, network = artifact.arrays[f"{layer.name}.weight"], layer.name.split(".")[0]
        zeros[network] = zeros.get(network, 0) + int(np.count_nonzero(weight == 0))
        total[network] = total.get(network, 0) + weight.size
    return {network: zeros[network] / total[network] for network in total}


def _pack(artifact: Artifact) -> dict[str, PackedNetwork]:
    """The networks that run without their zeros, by name."""
    folded = fold_batch_norm(artifact)
    arrays, sizes = folded.arrays, folded.architecture
    quantized = {name.split(".")[0] for name in artifact.quantization.activations}
    found: dict[str, PackedNetwork] = {}
    for name, zeros in zero_fractions(artifact).items():
        if round(zeros, 2) < MIN_ZEROS[name] or name in quantized:
            continue
        if name == "extractor" and sizes.extractor and can_pack_extractor(sizes.extractor):
            found[name] = pack_extractor(arrays, sizes.extractor)
        if name == "matcher" and sizes.matcher and can_pack_matcher(sizes.matcher):
            found[name] = pack_matcher(arrays, sizes.matcher)
    return found


def _part(artifact: Artifact, name: str) -> Artifact:
    """An artifact with one of the networks."""
    old = artifact.architecture
    architecture = ArchitectureConfig(
        extractor=old.extractor if name == "extractor" else None,
        matcher=old.matcher if name == "matcher" else None,
    )

    def part(values: Mapping[str, T]) -> dict[str, T]:
        return {key: value for key, value in values.items() if key.startswith(f"{name}.")}

    quantization = dataclasses.replace(
        artifact.quantization,
        tensors=part(artifact.quantization.tensors),
        activations=part(artifact.quantization.activations),
    )
    storage = dataclasses.replace(artifact.storage, activations=part(artifact.storage.activations))
    return dataclasses.replace(
        artifact,
        architecture=architecture,
        arrays=part(artifact.arrays),
        quantization=quantization,
        storage=storage,
        folder=None,
    )


def _dense_runtime(artifact: Artifact, threads: int | None) -> Runtime:
    if is_fastest(artifact):
        return NativeRuntime(artifact, threads)
    from featherglue.runtime.onnxruntime_ import OnnxRuntime

    return OnnxRuntime(current_graphs(artifact), threads)

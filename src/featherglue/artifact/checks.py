"""Checks of weights and quantized activations against the architecture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.layers import activation_names, tensor_shapes
from featherglue.config import ArchitectureConfig
from featherglue.errors import ArtifactError


def check_tensors(arrays: Mapping[str, NDArray[Any]], architecture: ArchitectureConfig) -> None:
    """Check that the tensors are those of the architecture, float32 and finite.

    Raises:
        ArtifactError: a tensor is missing, unexpected, or of another shape, dtype or range.
    """
    expected = tensor_shapes(architecture)
    for name in sorted(set(expected) ^ set(arrays)):
        state = "is missing" if name in expected else "does not belong to this architecture"
        raise ArtifactError(f"the tensor {name} {state}")
    for name, shape in expected.items():
        array = arrays[name]
        if array.dtype != np.float32:
            raise ArtifactError(f"{name} is {array.dtype}, expected float32 or float16")
        if array.shape != shape:
            raise ArtifactError(f"{name} has shape {array.shape}, the architecture needs {shape}")
        if not np.isfinite(array).all():
            raise ArtifactError(f"{name} holds values that are not finite")


def check_activations(architecture: ArchitectureConfig, names: Iterable[str]) -> None:
    """Check that activations of these names can be quantized.

    Raises:
        ArtifactError: the architecture has no such activation or has batch normalization, or only
            one of the two inputs of a message MLP is named.
    """
    names = set(names)
    unknown = sorted(names - set(activation_names(architecture)))
    if unknown:
        raise ArtifactError(f"the architecture has no activation {unknown[0]!r}")
    for name in sorted(names):
        inputs = {name.removesuffix(".message"), f"{name.removesuffix('.message')}.message"}
        if name.endswith((".mlp.0", ".mlp.0.message")) and not inputs <= names:
            raise ArtifactError(
                f"{name}: either both inputs of a message MLP are quantized, or neither"
            )
    networks = (architecture.extractor, architecture.matcher)
    if names and any(network is not None and network.batch_norm for network in networks):
        raise ArtifactError(
            "activations can be quantized only after batch normalization has been folded"
        )

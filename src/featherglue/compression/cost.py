"""Cost of a model: parameters, multiply–accumulates (MACs) and bytes.

Bytes are counted in two ways: the size of the artifact's files, and the way of the reference study,
which counts the bits of non-zero weights and ignores the cost of their indices. This module does
not use PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featherglue.artifact.folder import CARD, CONFIG, WEIGHTS
from featherglue.artifact.format import Artifact
from featherglue.artifact.integer_layers import integer_layers, saturates
from featherglue.artifact.layers import Layer, attention_macs, is_parameter, layers
from featherglue.errors import ArtifactError, UsageError
from featherglue.io.safetensors_file import parse_safetensors

_FLOAT_BITS = {"float32": 32, "float16": 16}


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """Cost of one layer, including its bias and batch normalization.

    Attributes:
        name: layer name.
        parameters: number of parameters.
        nonzero: number of non-zero parameters.
        macs: number of MACs.
        effective_macs: number of MACs with non-zero weights.
        scheme: encoding of the weight: "float", "linear" or "codebook".
        bits: bits of one weight.
        sparsity: fraction of zeros in the weight, in [0, 1].
        coding: storage of the codes: "plain", "packed" or "huffman".
        study_bytes: bytes in the way of the study.
        bytes: bytes in model.safetensors.
        integer: whether the layer is computed with integers.
        float_reason: why a quantized layer is computed with floats, else "".
    """

    name: str
    parameters: int
    nonzero: int
    macs: int
    effective_macs: int
    scheme: str
    bits: int
    sparsity: float
    coding: str
    study_bytes: float
    bytes: int
    integer: bool
    float_reason: str


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Cost of a model.

    Attributes:
        parameters: number of parameters.
        nonzero: number of non-zero parameters.
        macs: network name → number of MACs of one extraction or one match, including the products
            of attention.
        effective_macs: like `macs`, without products of zero weights.
        study_bytes: bytes of all parameters in the way of the study.
        bytes_on_disk: bytes of config.json, model.safetensors and the model card.
        study_ratio: bytes of the parameters of the baseline in dense float32, divided by
            `study_bytes`.
        disk_ratio: bytes of all tensors of the baseline in dense float32, divided by
            `bytes_on_disk`.
        saturates: whether sums of integer products may exceed 16 bits on CPUs without VNNI.
        layers: cost of each layer, in network order.
    """

    parameters: int
    nonzero: int
    macs: dict[str, int]
    effective_macs: dict[str, int]
    study_bytes: int
    bytes_on_disk: int
    study_ratio: float
    disk_ratio: float
    saturates: bool
    layers: tuple[LayerCost, ...]


def model_cost(
    artifact: Artifact,
    baseline: Artifact | None = None,
    image_size: tuple[int, int] = (640, 480),
    num_keypoints: int = 512,
) -> ModelCost:
    """Return the cost of a saved model.

    Args:
        artifact: the model.
        baseline: model to compare sizes with, in dense float32; the model itself by default.
        image_size: (width, height) in pixels for which MACs are counted.
        num_keypoints: number of keypoints of each image for which MACs are counted.

    Raises:
        UsageError: the artifact is not saved.
        ArtifactError: the file of the artifact cannot be read.
    """
    if artifact.folder is None:
        raise UsageError("the cost includes bytes on disk: save the model first")
    stored = _stored_bytes(artifact)
    kinds = integer_layers(artifact.architecture, artifact.quantization)
    rows = tuple(
        _layer(artifact, layer, stored, kinds, layer.macs(image_size, num_keypoints))
        for layer in layers(artifact.architecture)
    )
    learned = {n: array for n, array in artifact.arrays.items() if is_parameter(n)}
    study = sum(
        np.count_nonzero(array) * _bits(artifact, name) / 8 for name, array in learned.items()
    )
    files = artifact.file_sizes()
    disk = sum(files.get(name, 0) for name in (CONFIG, WEIGHTS, CARD))
    dense = (baseline or artifact).arrays
    return ModelCost(
        parameters=sum(array.size for array in learned.values()),
        nonzero=sum(int(np.count_nonzero(array)) for array in learned.values()),
        macs=_total(artifact, {row.name: row.macs for row in rows}, num_keypoints),
        effective_macs=_total(
            artifact, {row.name: row.effective_macs for row in rows}, num_keypoints
        ),
        study_bytes=round(study),
        bytes_on_disk=disk,
        study_ratio=4 * sum(a.size for n, a in dense.items() if is_parameter(n)) / max(1, study),
        disk_ratio=4 * sum(array.size for array in dense.values()) / disk,
        saturates=saturates(artifact.architecture, artifact.quantization),
        layers=rows,
    )


def _layer(
    artifact: Artifact,
    layer: Layer,
    stored: Mapping[str, int],
    kinds: tuple[list[str], dict[str, str]],
    macs: int,
) -> LayerCost:
    owners = {layer.name, layer.norm} - {""}
    learned = {
        name: array
        for name, array in artifact.arrays.items()
        if name.rpartition(".")[0] in owners and is_parameter(name)
    }
    weight = artifact.arrays[f"{layer.name}.weight"]
    density = np.count_nonzero(weight) / weight.size
    storage = artifact.storage.tensors[f"{layer.name}.weight"]
    integers, floats = kinds
    return LayerCost(
        name=layer.name,
        parameters=sum(array.size for array in learned.values()),
        nonzero=sum(int(np.count_nonzero(array)) for array in learned.values()),
        macs=macs,
        effective_macs=round(macs * density),
        scheme=storage.scheme,
        bits=_bits(artifact, f"{layer.name}.weight"),
        sparsity=1 - density,
        coding=storage.coding,
        study_bytes=sum(
            np.count_nonzero(array) * _bits(artifact, name) / 8 for name, array in learned.items()
        ),
        bytes=sum(size for name, size in stored.items() if name.rpartition(".")[0] in owners),
        integer=layer.name in integers,
        float_reason=floats.get(layer.name, ""),
    )


def _bits(artifact: Artifact, name: str) -> int:
    """Return the bits of one stored element of a tensor."""
    storage = artifact.storage.tensors[name]
    return storage.bits or _FLOAT_BITS.get(storage.dtype, 32)


def _total(artifact: Artifact, macs: Mapping[str, int], num_keypoints: int) -> dict[str, int]:
    counts = {"extractor": 0, "matcher": 0}
    for name, count in macs.items():
        counts[name.partition(".")[0]] += count
    if artifact.architecture.matcher is not None:
        counts["matcher"] += attention_macs(artifact.architecture.matcher, num_keypoints)
    return counts


def _stored_bytes(artifact: Artifact) -> dict[str, int]:
    """Return the bytes of each tensor in model.safetensors, including scales and codebooks."""
    assert artifact.folder is not None
    path = artifact.folder / WEIGHTS
    try:
        arrays = parse_safetensors(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error})") from None
    sizes: dict[str, int] = {}
    for name, array in arrays.items():
        tensor = name.partition(":")[0]
        sizes[tensor] = sizes.get(tensor, 0) + array.nbytes
    return sizes

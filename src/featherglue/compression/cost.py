"""What a model costs: parameters, multiply–accumulates, and bytes, counted in both ways.

The study's tables count the bits of weights that are not zero, and nothing for where they are;
the bytes on disk are those of the artifact's files. PyTorch is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import safetensors

from featherglue.artifact.folder import CARD, CONFIG, WEIGHTS
from featherglue.artifact.format import Artifact
from featherglue.artifact.integer_layers import integer_layers, saturates
from featherglue.artifact.layers import Layer, attention_macs, is_parameter, layers
from featherglue.errors import ArtifactError, UsageError

_FLOAT_BITS = {"float32": 32, "float16": 16}


@dataclass(frozen=True, kw_only=True)
class LayerAccount:
    """What one layer costs, its bias and normalisation included.

    Attributes:
        parameters, nonzero: learned numbers, and those that are not 0.
        macs, effective_macs: all multiply–accumulates, and those with weights that are not 0.
        scheme: of its weight: "float", "linear" or "codebook"; bits: of a weight.
        sparsity: share of zeros in the weight. coding: "plain", "packed" or "huffman".
        study_bytes: bits of what is not 0, in bytes. bytes: in model.safetensors.
        integer: whether it is computed with whole numbers; why_float: else why not, where its
            weight is quantized.
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
    why_float: str


@dataclass(frozen=True, kw_only=True)
class Account:
    """What a model costs.

    Attributes:
        macs, effective_macs: by network, of one extraction and one match; products of attention,
            which have no weights, are in both.
        study_bytes: bits of all parameters that are not 0, in bytes.
        bytes_on_disk: of config.json, model.safetensors and the model card.
        study_ratio, disk_ratio: how many times smaller than the baseline in dense float32 numbers:
            its parameters, and all its tensors, at four bytes each.
        saturates: whether sums of products may exceed 16 bits on CPUs without VNNI.
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
    layers: tuple[LayerAccount, ...]


def account(
    artifact: Artifact,
    baseline: Artifact | None = None,
    image_size: tuple[int, int] = (640, 480),
    keypoints: int = 512,
) -> Account:
    """Count what a saved model costs.

    Args:
        baseline: what it is compared with, as dense float32 numbers; None for itself as such.
        image_size: (width, height), keypoints: of each image, for which MACs are counted.

    Raises:
        UsageError: the model was never saved. ArtifactError: its file has gone.
    """
    if artifact.folder is None:
        raise UsageError("bytes on disk are those of a saved model: save it first")
    stored = _stored_bytes(artifact)
    kinds = integer_layers(artifact.architecture, artifact.quantization)
    rows = tuple(
        _layer(artifact, layer, stored, kinds, layer.macs(image_size, keypoints))
        for layer in layers(artifact.architecture)
    )
    learned = {n: array for n, array in artifact.arrays.items() if is_parameter(n)}
    study = sum(
        np.count_nonzero(array) * _bits(artifact, name) / 8 for name, array in learned.items()
    )
    files = artifact.file_sizes()
    disk = sum(files.get(name, 0) for name in (CONFIG, WEIGHTS, CARD))
    dense = (baseline or artifact).arrays
    return Account(
        parameters=sum(array.size for array in learned.values()),
        nonzero=sum(int(np.count_nonzero(array)) for array in learned.values()),
        macs=_total(artifact, {row.name: row.macs for row in rows}, keypoints),
        effective_macs=_total(artifact, {row.name: row.effective_macs for row in rows}, keypoints),
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
) -> LayerAccount:
    owners = {layer.name, layer.norm} - {""}
    learned = {
        name: array
        for name, array in artifact.arrays.items()
        if name.rpartition(".")[0] in owners and is_parameter(name)
    }
    weight = artifact.arrays[f"{layer.name}.weight"]
    share = np.count_nonzero(weight) / weight.size
    how = artifact.storage.tensors[f"{layer.name}.weight"]
    whole, floating = kinds
    return LayerAccount(
        name=layer.name,
        parameters=sum(array.size for array in learned.values()),
        nonzero=sum(int(np.count_nonzero(array)) for array in learned.values()),
        macs=macs,
        effective_macs=round(macs * share),
        scheme=how.scheme,
        bits=_bits(artifact, f"{layer.name}.weight"),
        sparsity=1 - share,
        coding=how.coding,
        study_bytes=sum(
            np.count_nonzero(array) * _bits(artifact, name) / 8 for name, array in learned.items()
        ),
        bytes=sum(size for name, size in stored.items() if name.rpartition(".")[0] in owners),
        integer=layer.name in whole,
        why_float=floating.get(layer.name, ""),
    )


def _bits(artifact: Artifact, name: str) -> int:
    """Of a number of this tensor, as it is stored."""
    how = artifact.storage.tensors[name]
    return how.bits or _FLOAT_BITS.get(how.dtype, 32)


def _total(artifact: Artifact, macs: Mapping[str, int], keypoints: int) -> dict[str, int]:
    counts = {"extractor": 0, "matcher": 0}
    for name, count in macs.items():
        counts[name.partition(".")[0]] += count
    if artifact.architecture.matcher is not None:
        counts["matcher"] += attention_macs(artifact.architecture.matcher, keypoints)
    return counts


def _stored_bytes(artifact: Artifact) -> dict[str, int]:
    """Bytes of each tensor in model.safetensors, all its parts together."""
    assert artifact.folder is not None
    path = artifact.folder / WEIGHTS
    try:
        parts = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error})") from None
    sizes: dict[str, int] = {}
    for name, part in parts:
        tensor = name.partition(":")[0]
        sizes[tensor] = sizes.get(tensor, 0) + len(part["data"])
    return sizes

"""Conversion between the tensors of a model and the arrays of its safetensors file.

A dense float tensor is one array of the same name. The parts of an encoded tensor are arrays named
`tensor:part`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.artifact.encodings import (
    CodebookTensor,
    Encoding,
    FloatType,
    LinearTensor,
    Parts,
    Quantization,
)
from featherglue.artifact.encodings.parts import part_names
from featherglue.artifact.encodings.sparse_float import decode_sparse_float, encode_sparse_float
from featherglue.config import LayerStorage, StorageConfig
from featherglue.errors import ArtifactError, ConfigError, OutputError

Arrays = dict[str, NDArray[Any]]


def write_tensors(
    arrays: Mapping[str, NDArray[Any]], quantization: Quantization, dtype: FloatType
) -> tuple[Arrays, StorageConfig]:
    """Encode the tensors of a model.

    Args:
        arrays: all tensors by name, float32; quantized tensors dequantized.
        quantization: codes of the quantized tensors.
        dtype: number format of the other tensors; float16 rounds.

    Returns:
        The arrays to store by name, and the description of their storage.

    Raises:
        ConfigError: a quantized tensor differs from its codes.
        OutputError: a value is too large for float16.
    """
    stored: Arrays = {}
    tensors: dict[str, LayerStorage] = {}
    for name in quantization.tensors:
        if name not in arrays:
            raise ConfigError(f"{name}: is quantized, but the model has no such tensor")
    for name, array in arrays.items():
        encoding = quantization.tensors.get(name)
        if encoding is None:
            tensors[name], parts = _write_float(array, dtype)
        else:
            _check_codes(name, array, encoding)
            tensors[name], parts = encoding.to_parts()
        stored |= {f"{name}:{part}" if part else name: value for part, value in parts.items()}
    return stored, StorageConfig(tensors=tensors, activations=dict(quantization.activations))


def _write_float(array: NDArray[Any], dtype: FloatType) -> tuple[LayerStorage, Parts]:
    """Encode a float tensor: sparse if it has two axes or more and that is smaller, else dense."""
    with np.errstate(over="ignore"):
        rounded = np.array(array, np.dtype(dtype), order="C")
    if not np.isfinite(rounded).all():
        raise OutputError("a weight is too large for float16; set dtype = 'float32'")
    sparse = encode_sparse_float(array, dtype) if array.ndim > 1 else None
    if sparse is not None:
        return sparse
    sparsity = float(np.mean(rounded == 0))
    return LayerStorage(dtype=dtype, sparsity=sparsity), {"": rounded}


def _check_codes(name: str, array: NDArray[Any], encoding: Encoding) -> None:
    if encoding.codes.shape != array.shape or not np.array_equal(encoding.decode(), array):
        raise ConfigError(
            f"{name}: was changed after it was quantized; quantize it in the last step"
        )


def read_tensors(
    stored: Arrays, storage: StorageConfig, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Arrays, Quantization]:
    """The inverse of `write_tensors`.

    Args:
        stored: the arrays of the file by name.
        storage: the description of their storage.
        shapes: shapes of the tensors by name.

    Returns:
        The tensors by name, float32, dequantized; the codes of the quantized ones.

    Raises:
        ArtifactError: the arrays are inconsistent with `storage` or `shapes`, or damaged.
    """
    remaining = dict(stored)
    arrays: Arrays = {}
    encodings: dict[str, Encoding] = {}
    for name, layer in storage.tensors.items():
        parts = _take_parts(remaining, name, layer)
        if layer.scheme == "float" and layer.positions == "all":
            array = parts[""]
            arrays[name] = array.astype(np.float32) if array.dtype == np.float16 else array
            continue
        if name not in shapes:
            raise ArtifactError(f"the tensor {name} does not belong to this architecture")
        try:
            if layer.scheme == "float":
                arrays[name] = decode_sparse_float(layer, parts, shapes[name])
            else:
                kind = LinearTensor if layer.scheme == "linear" else CodebookTensor
                encoding: Encoding = kind.from_parts(layer, parts, shapes[name])
                encodings[name], arrays[name] = encoding, encoding.decode()
        except (ArtifactError, ConfigError) as error:
            raise ArtifactError(f"{name}: {error}") from None
    if remaining:
        raise ArtifactError(
            f"the tensor {sorted(remaining)[0]} does not belong to this architecture, or is not "
            "stored as config.json describes"
        )
    return arrays, Quantization(tensors=encodings, activations=storage.activations)


def _take_parts(remaining: Arrays, name: str, layer: LayerStorage) -> Parts:
    """Remove the arrays of a tensor from `remaining` and return them by part."""
    if layer.scheme == "float" and layer.positions == "all":
        names = {"": name}
    else:
        required, optional = part_names(layer)
        names = {part: f"{name}:{part}" for part in required}
        names |= {part: f"{name}:{part}" for part in optional if f"{name}:{part}" in remaining}
    missing = sorted(array_name for array_name in names.values() if array_name not in remaining)
    if missing:
        raise ArtifactError(f"the tensor {missing[0]} is missing")
    return {part: remaining.pop(array_name) for part, array_name in names.items()}

"""All tensors of a model ↔ the named arrays of its safetensors file.

A tensor that is held as plain floats keeps its name; of others every part is an array of its own,
named `tensor:part`.
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
    part_names,
    read_float,
    store_float,
)
from featherglue.config import LayerStorage, StorageConfig
from featherglue.errors import ArtifactError, ConfigError, OutputError

Arrays = dict[str, NDArray[Any]]


def write_tensors(
    arrays: Mapping[str, NDArray[Any]], quantization: Quantization, dtype: FloatType
) -> tuple[Arrays, StorageConfig]:
    """The arrays to store, and how they hold the tensors.

    Args:
        arrays: every tensor, float32; quantized ones as their codes have it.
        dtype: of what is stored as floats; float16 rounds.

    Raises:
        ConfigError: a quantized tensor is not what its codes stand for.
        OutputError: a number is too large for float16.
    """
    stored: Arrays = {}
    tensors: dict[str, LayerStorage] = {}
    for name in quantization.tensors:
        if name not in arrays:
            raise ConfigError(f"{name} is quantized, but the model has no such tensor")
    for name, array in arrays.items():
        encoding = quantization.tensors.get(name)
        if encoding is None:
            tensors[name], parts = _write_float(array, dtype)
        else:
            _check_codes(name, array, encoding)
            tensors[name], parts = encoding.store()
        stored |= {f"{name}:{part}" if part else name: value for part, value in parts.items()}
    return stored, StorageConfig(tensors=tensors, activations=dict(quantization.activations))


def _write_float(array: NDArray[Any], dtype: FloatType) -> tuple[LayerStorage, Parts]:
    with np.errstate(over="ignore"):
        held = np.array(array, np.dtype(dtype), order="C")
    if not np.isfinite(held).all():
        raise OutputError("a weight is too large for float16; store float32")
    sparse = store_float(array, dtype) if array.ndim > 1 else None
    if sparse is not None:
        return sparse
    sparsity = float(np.mean(held == 0))
    return LayerStorage(dtype=dtype, sparsity=sparsity), {"": held}


def _check_codes(name: str, array: NDArray[Any], encoding: Encoding) -> None:
    if encoding.codes.shape != array.shape or not np.array_equal(encoding.decode(), array):
        raise ConfigError(
            f"{name} is not what its codes stand for: it was changed after it was quantized; "
            "quantize last"
        )


def read_tensors(
    stored: Arrays, storage: StorageConfig, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Arrays, Quantization]:
    """The inverse of `write_tensors`: float32 tensors by name, and the codes of the quantized ones.

    Args:
        shapes: of the tensors that are wanted; of others nothing but plain floats is read.

    Raises:
        ArtifactError: arrays and storage do not fit together, or a code is damaged.
    """
    left = dict(stored)
    arrays: Arrays = {}
    encodings: dict[str, Encoding] = {}
    for name, how in storage.tensors.items():
        parts = _take_parts(left, name, how)
        if how.scheme == "float" and how.positions == "all":
            array = parts[""]
            arrays[name] = array.astype(np.float32) if array.dtype == np.float16 else array
            continue
        if name not in shapes:
            raise ArtifactError(f"the tensor {name} does not belong to this architecture")
        try:
            if how.scheme == "float":
                arrays[name] = read_float(how, parts, shapes[name])
            else:
                kind = LinearTensor if how.scheme == "linear" else CodebookTensor
                encoding: Encoding = kind.read(how, parts, shapes[name])
                encodings[name], arrays[name] = encoding, encoding.decode()
        except (ArtifactError, ConfigError) as error:
            raise ArtifactError(f"{name}: {error}") from None
    if left:
        raise ArtifactError(
            f"the tensor {sorted(left)[0]} does not belong to this architecture, or not in the "
            "way in which config.json says that it is stored"
        )
    return arrays, Quantization(tensors=encodings, activations=storage.activations)


def _take_parts(left: Arrays, name: str, how: LayerStorage) -> Parts:
    """Take a tensor's arrays out of those that are left."""
    if how.scheme == "float" and how.positions == "all":
        names = {"": name}
    else:
        needed, possible = part_names(how)
        names = {part: f"{name}:{part}" for part in needed}
        names |= {part: f"{name}:{part}" for part in possible if f"{name}:{part}" in left}
    missing = sorted(whole for whole in names.values() if whole not in left)
    if missing:
        raise ArtifactError(f"the tensor {missing[0]} is missing")
    return {part: left.pop(whole) for part, whole in names.items()}

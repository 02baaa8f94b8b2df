"""Reading of safetensors files as NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import safetensors
from numpy.typing import NDArray

_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}


def parse_safetensors(data: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file by name.

    Raises:
        ValueError: the data are damaged, or a tensor has a number format that NumPy lacks.
    """
    try:
        parts: list[tuple[str, dict[str, Any]]] = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a safetensors file ({error})") from None
    return {name: _tensor(name, part) for name, part in parts}


def _tensor(name: str, part: dict[str, Any]) -> NDArray[Any]:
    if part["dtype"] not in _DTYPES:
        raise ValueError(f"the tensor {name[:200]!r} has the number format {part['dtype']}")
    array = np.frombuffer(part["data"], np.dtype(_DTYPES[part["dtype"]]))
    return array.reshape(part["shape"])

"""Reading of npz files that featherglue wrote: completely, or not at all.

`np.load` reads arrays on first use, so that damage shows late, in exceptions of many types. Here
every checksum is verified before an array is used.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import StoredFileError, short_reason

_MAGIC = b"\x93NUMPY"
_HEADER = re.compile(
    r"\{'descr': '([<>|=][a-zA-Z]\d{1,6})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,15}(?:, ?|(?=\))))*)\), \}\s*"
)


def read_npz(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """All arrays of an uncompressed npz file by name.

    Raises:
        StoredFileError: the file is missing, damaged, or not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                raise ValueError("it is compressed")
            # Stored members are not larger than the file, and `read` verifies their checksums.
            return {
                member.filename.removesuffix(".npy"): _array(archive.read(member))
                for member in members
            }
    except FileNotFoundError:
        raise StoredFileError(f"{path}: no such file") from None
    except (
        OSError,
        ValueError,
        EOFError,
        RuntimeError,  # encrypted
        NotImplementedError,
        OverflowError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise StoredFileError(f"{path}: damaged ({short_reason(error)})") from None


def _array(data: bytes) -> NDArray[Any]:
    """The array of a npy file. Its size is checked before memory is taken."""
    if data[:6] != _MAGIC or len(data) < 12 or data[6] not in (1, 2, 3):
        raise ValueError("not an array")
    start = 10 if data[6] == 1 else 12
    end = start + int.from_bytes(data[8:start], "little")
    header = _HEADER.fullmatch(data[start:end].decode("latin1"))
    if header is None:
        raise ValueError("the header of an array is damaged")
    dtype = np.dtype(header[1])
    shape = tuple(int(size) for size in header[3].replace(",", " ").split())
    if dtype.hasobject:
        raise ValueError("an array of objects")
    array = np.frombuffer(data, np.uint8, offset=end).view(dtype)
    return array.reshape(shape, order="F" if header[2] == "True" else "C").copy()

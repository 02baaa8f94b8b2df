"""The work buffer of the linear algebra in OpenCV.

OpenCV contains OpenBLAS, which maps a buffer of about 130 MB at its first product of larger
matrices. If it cannot, the process ends with a segmentation fault. The buffer is therefore taken at
a known point, where a lack of memory is an error.
"""

from __future__ import annotations

import threading

import cv2
import numpy as np

from featherglue.errors import ResourceError

_BUFFER_BYTES = 160_000_000
_SIZE = 128  # smallest product of square matrices, by powers of two, that takes the buffer
_taken = threading.local()


def take_blas_buffer() -> None:
    """Take the buffer, once per thread: to be called before robust estimation with OpenCV.

    Raises:
        ResourceError: there is not enough memory.
    """
    if getattr(_taken, "done", False):
        return
    try:
        np.empty(_BUFFER_BYTES, np.uint8)  # mapped and freed again, never touched
    except MemoryError:
        raise ResourceError(
            f"not enough memory for {_BUFFER_BYTES / 1e6:.0f} MB more, to estimate geometry"
        ) from None
    matrix = np.zeros((_SIZE, _SIZE))
    cv2.gemm(matrix, matrix, 1, None, 0)  # type: ignore[call-overload]
    _taken.done = True

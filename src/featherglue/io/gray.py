"""Conversion of arrays and of Pillow images to gray images (H, W) uint8."""

from __future__ import annotations

import warnings
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ImageError, ImageWarning

Gray: TypeAlias = NDArray[np.uint8]
MAX_PIXELS = 200_000_000
_ORIENTATION = 0x0112  # tag of EXIF
_DIRECT_MODES = ("1", "L", "RGB", "RGBA", "F", "I;16", "I;16L", "I;16B", "I;16N")


def to_gray(image: NDArray[Any], name: str = "image") -> Gray:
    """Convert an array to a gray image (H, W) uint8.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA. uint8 values are kept, uint16
            values divided by 257, bool values become 0 and 255, floats must lie in [0, 1]. uint16
            values that use only the lower 8, 10, 12 or 14 bits are taken for such, with an
            `ImageWarning`.
        name: name of the image, for messages.

    Raises:
        ImageError: another shape or dtype, an empty image, or more than 200 megapixels.
    """
    try:
        image = np.asarray(image)
    except ValueError:
        raise ImageError(f"{name}: the rows must have equal lengths") from None
    image = image.astype(image.dtype.newbyteorder("="), copy=False)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: the shape must be (H, W) or (H, W, 1|3|4), not {image.shape}")
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"{name}: the image is empty, shape {image.shape}")
    check_size(image.shape[0], image.shape[1], name)
    gray = _to_uint8(image, name)
    if gray.ndim == 3:
        if gray.shape[2] == 1:
            gray = gray[:, :, 0]
        else:
            code = cv2.COLOR_RGB2GRAY if gray.shape[2] == 3 else cv2.COLOR_RGBA2GRAY
            gray = np.asarray(cv2.cvtColor(gray, code), dtype=np.uint8)
    return np.ascontiguousarray(gray)


def check_size(height: int, width: int, name: str) -> None:
    """Check that an image has at most `MAX_PIXELS` pixels.

    Raises:
        ImageError: it has more.
    """
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}×{height} pixels are more than {MAX_PIXELS // 1_000_000} megapixels; "
            "reduce the size of the image"
        )


def _to_uint8(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype == np.uint16:
        return _from_uint16(image, name)
    if image.dtype == np.bool_:
        return np.asarray(image.astype(np.uint8) * 255, np.uint8)
    if np.issubdtype(image.dtype, np.floating):
        low, high = float(np.min(image)), float(np.max(image))
        if not (low >= 0 and high <= 1):
            raise ImageError(
                f"{name}: float values must lie in [0, 1], not in [{low:g}, {high:g}]; "
                "divide by the maximum or pass uint8"
            )
        return np.asarray(np.rint(image * 255), np.uint8)
    raise ImageError(f"{name}: the dtype must be uint8, uint16, bool or float, not {image.dtype}")


def _from_uint16(image: NDArray[np.uint16], name: str) -> NDArray[np.uint8]:
    """Convert to 8 bits by the number of bits that the values use."""
    largest = int(image.max())
    bits = next(bits for bits in (8, 10, 12, 14, 16) if largest < 2**bits)
    if bits == 16 or largest == 0:
        return np.asarray((image.astype(np.uint32) + 128) // 257, np.uint8)
    warnings.warn(
        f"{name}: 16-bit values up to {largest} are taken for {bits}-bit values",
        ImageWarning,
        stacklevel=4,
    )
    most = 2**bits - 1
    return np.asarray((image.astype(np.uint32) * 255 + most // 2) // most, np.uint8)


def is_pillow(image: Any) -> bool:
    """Whether a value is an image of Pillow, which need not be installed."""
    return type(image).__module__.partition(".")[0] == "PIL" and hasattr(image, "getexif")


def from_pillow(image: Any) -> NDArray[Any]:
    """The array of a Pillow image of any mode, rotated upright by its EXIF orientation.

    Returns:
        (H, W) or (H, W, 3|4) array, see `to_gray`.

    Raises:
        ImageError: the image cannot be decoded.
    """
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
        mode = str(image.mode)
        if mode.startswith("L"):  # with alpha, which is ignored
            image = image.convert("L")
        elif mode not in _DIRECT_MODES and mode != "I":  # P, CMYK, YCbCr, HSV, LAB
            image = image.convert("RGB")
        array = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:  # Pillow decodes on first use
        raise ImageError(f"image: Pillow cannot decode it ({error})") from None
    if array.dtype == np.int32:  # 16 bits in files
        if array.size and (array.min() < 0 or array.max() > 65535):
            raise ImageError("image: values of mode I must lie in [0, 65535]")
        array = array.astype(np.uint16)
    return _upright(array.astype(array.dtype.newbyteorder("="), copy=False), orientation)


def _upright(array: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation, 1 to 8."""
    if orientation in (2, 4, 5, 7):
        array = array[:, ::-1]
    return np.rot90(array, {3: 2, 4: 2, 5: 1, 6: 3, 7: 3, 8: 1}.get(orientation, 0))

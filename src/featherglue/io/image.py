"""Reading, grey conversion and resizing of images; mapping of points between image sizes.

Points are (x, y) pixels; the centre of the top-left pixel is (0, 0). A resize maps pixel edges to
pixel edges: x' = (x + 0.5)·(w'/w) − 0.5. Sizes are (width, height).
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ImageError, ResourceError
from featherglue.machine import exhausted_resource

Image: TypeAlias = "str | os.PathLike[str] | NDArray[Any]"
Grey: TypeAlias = NDArray[np.uint8]
Points: TypeAlias = NDArray[np.float32]

SUFFIXES = frozenset(
    (".bmp", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
MAX_PIXELS = 200_000_000
MAX_FILE_SIZE = 4_000_000_000  # bytes


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """List the image files of a folder, in natural order.

    Args:
        folder: folder to search for files with a suffix of `SUFFIXES`.
        recursive: search its sub-folders too.

    Raises:
        ImageError: the folder does not exist or has no images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder")
    found = root.rglob("*") if recursive else root.iterdir()
    images = (path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = sorted(images, key=natural_sort_key)
    if not paths:
        raise ImageError(f"{root}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
    return paths


def read_evenly_spaced(folder: str | os.PathLike[str], num_images: int) -> list[Grey]:
    """Read images at even distances in the sorted list of a folder and its sub-folders.

    Args:
        folder: see `list_images`.
        num_images: maximum number of images.

    Raises:
        ImageError: the folder has no images, or one cannot be read.
    """
    paths = list_images(folder, recursive=True)
    count = min(num_images, len(paths))
    return [read_grey(paths[i * len(paths) // count]) for i in range(count)]


def natural_sort_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that compares numbers by value: frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def read_grey(path: str | os.PathLike[str]) -> Grey:
    """Read an image file as grey (H, W) uint8, rotated upright by its EXIF orientation.

    Colour is converted to luminance, alpha is ignored, and 16-bit values are divided by 257.

    Raises:
        ImageError: the file is missing, empty, truncated, too large, or not an image.
        ResourceError: there is not enough memory, or too many files are open.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ImageError(f"{path}: not an image file but a folder")
        if size == 0:
            raise ImageError(f"{path}: the file is empty")
        if size > MAX_FILE_SIZE:
            raise ImageError(f"{path}: {size / 1e9:.1f} GB is too large for an image")
        encoded = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        _raise_if_exhausted(error, str(path))
        raise ImageError(f"{path}: cannot be read ({error})") from None
    return _decode(encoded, str(path))


def _decode(encoded: NDArray[np.uint8], name: str) -> Grey:
    if encoded[:8].tobytes() == b"\x89PNG\r\n\x1a\n" and len(encoded) >= 24:
        # A small PNG file can expand to a huge image; its header has the size.
        width, height = struct.unpack(">II", encoded[16:24].tobytes())
        _check_size(height, width, name)
    if encoded[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in encoded.tobytes():
        raise ImageError(f"{name}: the JPEG file is truncated")  # OpenCV would fill the rest
    # ANYDEPTH keeps 16 bits; imdecode applies the EXIF orientation.
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except cv2.error as error:  # more than 2^30 pixels
        _raise_if_exhausted(error, name)
        raise ImageError(f"{name}: the image has too many pixels; reduce its size") from None
    if image is None:
        raise ImageError(f"{name}: damaged, or not an image format that OpenCV reads")
    return to_grey(image, name)


def _raise_if_exhausted(error: Exception, name: str) -> None:
    """Raise ResourceError if the machine, not the image, caused an error."""
    lack = exhausted_resource(error)
    if lack:
        raise ResourceError(f"{name}: {lack}") from None


def to_grey(image: NDArray[Any], name: str = "image") -> Grey:
    """Convert an array to a grey image (H, W) uint8.

    Args:
        image: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA. uint8 values are kept, uint16
            values divided by 257, bool values become 0 and 255, floats must lie in [0, 1].
        name: of the image, for messages.

    Raises:
        ImageError: another shape or dtype, an empty image, or more than 200 megapixels.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: the shape must be (H, W) or (H, W, 1|3|4), not {image.shape}")
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"{name}: the image is empty, shape {image.shape}")
    _check_size(image.shape[0], image.shape[1], name)
    grey = _to_uint8(image, name)
    if grey.ndim == 3:
        if grey.shape[2] == 1:
            grey = grey[:, :, 0]
        else:
            code = cv2.COLOR_RGB2GRAY if grey.shape[2] == 3 else cv2.COLOR_RGBA2GRAY
            grey = np.asarray(cv2.cvtColor(grey, code), dtype=np.uint8)
    return np.ascontiguousarray(grey)


def _check_size(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}×{height} pixels are more than {MAX_PIXELS // 1_000_000} megapixels; "
            "reduce the size of the image"
        )


def _to_uint8(image: NDArray[Any], name: str) -> NDArray[np.uint8]:
    if image.dtype == np.uint8:
        return np.asarray(image, np.uint8)
    if image.dtype == np.uint16:
        return np.asarray((image.astype(np.uint32) + 128) // 257, np.uint8)
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


def load_grey(image: Image) -> Grey:
    """Read a path or convert an array to a grey image (H, W) uint8.

    Raises:
        ImageError: see `read_grey` and `to_grey`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_grey(image)
    return to_grey(image)


def resized_size(size: tuple[int, int], resize: Sequence[int]) -> tuple[int, int]:
    """Size (width, height) of an image after a resize.

    Args:
        size: (width, height) of the image.
        resize: () or (-1,) keeps the size; (m,) scales the longest side to m; (w, h) is the size.
    """
    if len(resize) == 0 or tuple(resize) == (-1,):
        return size
    if len(resize) == 2:
        return int(resize[0]), int(resize[1])
    scale = resize[0] / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_grey(image: Grey, size: tuple[int, int]) -> Grey:
    """Resize an image (H, W) to (width, height).

    Areas are averaged when the image becomes smaller; otherwise pixels are interpolated bilinearly.
    """
    height, width = image.shape
    if (width, height) == size:
        return image
    smaller = size[0] * size[1] < width * height
    interpolation = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), dtype=np.uint8)


def map_points(points: Points, from_size: tuple[int, int], to_size: tuple[int, int]) -> Points:
    """Map points from an image to its resized copy.

    Args:
        points: (N, 2) float32 (x, y) pixels.
        from_size, to_size: (width, height) of the image and of the copy.

    Returns:
        (N, 2) float32.
    """
    if from_size == to_size:
        return points
    scale = np.array([to_size[0] / from_size[0], to_size[1] / from_size[1]])
    mapped: Points = ((points.astype(np.float64) + 0.5) * scale - 0.5).astype(np.float32)
    return mapped

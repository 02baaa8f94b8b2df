"""Reading images, turning them grey, resizing: the one place that maps coordinates between sizes.

Points are (x, y) pixels; the centre of the top-left pixel is (0, 0). A resize maps pixel edges to
pixel edges, so x' = (x + 0.5)·(w'/w) − 0.5.
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

from featherglue.errors import ImageError

Image: TypeAlias = "str | os.PathLike[str] | NDArray[Any]"
Grey: TypeAlias = NDArray[np.uint8]
Points: TypeAlias = NDArray[np.float32]

SUFFIXES = frozenset(
    (".bmp", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
MAX_PIXELS = 200_000_000
BYTES_FOR_MAX_PIXELS = 4_000_000_000


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """The images in a folder by their suffix, sorted by name, numbers by their value.

    Raises:
        ImageError: the folder does not exist or holds no image.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ImageError(f"{root}: no such folder")
    found = root.rglob("*") if recursive else root.iterdir()
    images = (path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())
    paths = sorted(images, key=by_number)
    if not paths:
        raise ImageError(f"{root}: no images here (looked for {', '.join(sorted(SUFFIXES))})")
    return paths


def read_evenly(folder: str | os.PathLike[str], count: int) -> list[Grey]:
    """`count` images of a folder and those in it, or all there are, spread over their order, grey.

    Raises:
        ImageError: as `list_images` and `read_grey`.
    """
    paths = list_images(folder, recursive=True)
    count = min(count, len(paths))
    return [read_grey(paths[i * len(paths) // count]) for i in range(count)]


def by_number(path: Path) -> list[tuple[int, str]]:
    """Sort key by which frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def read_grey(path: str | os.PathLike[str]) -> Grey:
    """Read an image file as grey (H, W) uint8, upright by its EXIF orientation.

    Colour, alpha (ignored) and 16-bit files (scaled by 1/257) are converted.

    Raises:
        ImageError: missing, empty, truncated, too large, or not an image.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise ImageError(f"{path}: is a folder, an image file is needed")
        if size == 0:
            raise ImageError(f"{path}: the file is empty")
        if size > BYTES_FOR_MAX_PIXELS:
            raise ImageError(f"{path}: {size / 1e9:.1f} GB is too large for an image")
        encoded = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        raise ImageError(f"{path}: cannot be read ({error})") from None
    return _decode(encoded, str(path))


def _decode(encoded: NDArray[np.uint8], name: str) -> Grey:
    if encoded[:8].tobytes() == b"\x89PNG\r\n\x1a\n" and len(encoded) >= 24:
        # Where a small file is a huge image it is mostly this; its size stands at the front.
        width, height = struct.unpack(">II", encoded[16:24].tobytes())
        _refuse_huge(height, width, name)
    if encoded[:2].tobytes() == b"\xff\xd8" and b"\xff\xd9" not in encoded.tobytes():
        raise ImageError(f"{name}: the JPEG file is cut short")  # OpenCV 4 would grey the rest
    # ANYDEPTH keeps 16 bits; the EXIF orientation is applied unless IGNORE_ORIENTATION is set.
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    except cv2.error:  # OpenCV refuses more than 2^30 pixels with an exception
        raise ImageError(f"{name}: too many pixels to read; shrink the image first") from None
    if image is None:
        raise ImageError(f"{name}: not an image that OpenCV can read, or damaged")
    return to_grey(image, name)


def to_grey(image: NDArray[Any], name: str = "image") -> Grey:
    """An array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA as grey (H, W) uint8.

    uint8 is taken as it is, uint16 is divided by 257, floats must lie in [0, 1].

    Raises:
        ImageError: another shape or type, an empty image, or more than 200 megapixels.
    """
    image = np.asarray(image)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)):
        raise ImageError(f"{name}: expected (H, W) or (H, W, 1|3|4), found shape {image.shape}")
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"{name}: the image is empty, shape {image.shape}")
    _refuse_huge(image.shape[0], image.shape[1], name)
    grey = _to_uint8(image, name)
    if grey.ndim == 3:
        if grey.shape[2] == 1:
            grey = grey[:, :, 0]
        else:
            code = cv2.COLOR_RGB2GRAY if grey.shape[2] == 3 else cv2.COLOR_RGBA2GRAY
            grey = np.asarray(cv2.cvtColor(grey, code), dtype=np.uint8)
    return np.ascontiguousarray(grey)


def _refuse_huge(height: int, width: int, name: str) -> None:
    if height * width > MAX_PIXELS:
        raise ImageError(
            f"{name}: {width}×{height} pixels, more than {MAX_PIXELS // 1_000_000} megapixels; "
            "shrink the image first"
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
                f"{name}: a float image must lie in [0, 1], found [{low:g}, {high:g}]; "
                "divide by its maximum or pass uint8"
            )
        return np.asarray(np.rint(image * 255), np.uint8)
    raise ImageError(f"{name}: {image.dtype} images are not supported; use uint8, uint16 or float")


def load_grey(image: Image) -> Grey:
    """A path or an array as grey (H, W) uint8. See `read_grey` and `to_grey` for the errors."""
    if isinstance(image, (str, os.PathLike)):
        return read_grey(image)
    return to_grey(image)


def target_size(size: tuple[int, int], resize: Sequence[int]) -> tuple[int, int]:
    """The (width, height) that an image of `size` is resized to.

    Args:
        size: (width, height) of the image.
        resize: () or (-1,) keeps it, (m,) makes the longest side m, (w, h) is taken exactly.
    """
    if len(resize) == 0 or tuple(resize) == (-1,):
        return size
    if len(resize) == 2:
        return int(resize[0]), int(resize[1])
    scale = resize[0] / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_grey(image: Grey, size: tuple[int, int]) -> Grey:
    """Resize to (width, height): averaging areas when shrinking, bilinear when growing."""
    height, width = image.shape
    if (width, height) == size:
        return image
    shrinks = size[0] * size[1] < width * height
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, size, interpolation=interpolation), dtype=np.uint8)


def map_points(points: Points, from_size: tuple[int, int], to_size: tuple[int, int]) -> Points:
    """Move points (N, 2) xy from an image of one (width, height) to its resized copy."""
    if from_size == to_size:
        return points
    scale = np.array([to_size[0] / from_size[0], to_size[1] / from_size[1]])
    mapped: Points = ((points.astype(np.float64) + 0.5) * scale - 0.5).astype(np.float32)
    return mapped

"""Reading, gray conversion and resizing of images; mapping of points between image sizes.

Points are (x, y) pixels; the center of the top-left pixel is (0, 0). A resize maps pixel edges to
pixel edges: x' = (x + 0.5)·(w'/w) − 0.5. Sizes are (width, height).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ImageError, ImageWarning, ResourceError
from featherglue.io.gray import Gray, check_size, from_pillow, is_pillow, to_gray
from featherglue.io.image_headers import ImageHeader, parse_header, scan_start
from featherglue.machine import exhausted_resource

Image: TypeAlias = "str | os.PathLike[str] | NDArray[Any]"
Points: TypeAlias = NDArray[np.float32]

SUFFIXES = frozenset(
    (
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pam",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    )
)
"""Suffixes of image files. HEIC files are listed and refused by name, not left out in silence."""
_OTHER_SUFFIXES = frozenset(
    (".arw", ".cr2", ".cr3", ".dng", ".exr", ".hdr", ".jxl", ".nef", ".orf", ".psd", ".tga")
)
MAX_FILE_SIZE = 4_000_000_000  # bytes
MAX_SMALL_FILE_MEMORY = 400_000_000
"""Memory, bytes, that every file may take for its decoding."""
MAX_EXPANSION = 4000
"""Memory that a larger file may take for its decoding, as a multiple of its size."""
# Entropy-coded data that no decoder takes for a marker.
_CONTINUATION = bytes((37 * i * i + 11) % 251 for i in range(64))


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise ImageError if a folder of images does not exist."""
    if not Path(folder).is_dir():
        raise ImageError(f"{folder}: no such folder")


def list_images(folder: str | os.PathLike[str], recursive: bool = False) -> list[Path]:
    """List the image files of a folder, in natural order.

    Hidden files and folders, whose names start with a dot, are left out.

    Args:
        folder: folder to search for files with a suffix of `SUFFIXES`.
        recursive: search its sub-folders too.

    Raises:
        ImageError: the folder does not exist or has no images.
    """
    root = Path(folder)
    check_folder(root)
    files = list(root.rglob("*") if recursive else root.iterdir())
    images = (path for path in files if is_image_name(path.relative_to(root)) and path.is_file())
    paths = sorted(images, key=natural_sort_key)
    _warn_of_others(root, files)
    if not paths:
        raise ImageError(f"{root}: no images in this folder ({', '.join(sorted(SUFFIXES))})")
    return paths


def _warn_of_others(folder: Path, files: Sequence[Path]) -> None:
    """Name the image files of formats that are not read."""
    suffixes = [path.suffix.lower() for path in files]
    for suffix in sorted(_OTHER_SUFFIXES.intersection(suffixes)):
        warnings.warn(
            f"{folder}: {suffixes.count(suffix)} files {suffix} are left out; convert them to "
            ".png or .jpg",
            ImageWarning,
            stacklevel=3,
        )


def is_image_name(path: Path) -> bool:
    """Whether a path has a suffix of `SUFFIXES` and no part of it is hidden."""
    hidden = any(part.startswith(".") and part.strip(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden


def read_evenly_spaced(folder: str | os.PathLike[str], num_images: int) -> list[Gray]:
    """Read images at even distances in the sorted list of a folder and its sub-folders.

    Args:
        folder: see `list_images`.
        num_images: maximum number of images.

    Raises:
        ImageError: the folder has no images, or one cannot be read.
    """
    paths = list_images(folder, recursive=True)
    count = min(num_images, len(paths))
    return [read_gray(paths[i * len(paths) // count]) for i in range(count)]


def natural_sort_key(path: Path) -> list[tuple[int, str]]:
    """Sort key that compares numbers by value: frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def read_gray(path: str | os.PathLike[str]) -> Gray:
    """Read an image file as gray (H, W) uint8, rotated upright by its EXIF orientation.

    Color is converted to luminance, alpha is ignored, and 16-bit values are divided by 257. Of
    several pages or frames, the first one is read, with an `ImageWarning`. The size in the header
    is checked before anything is decoded.

    Raises:
        ImageError: the file is missing, empty, truncated, too large, or not an image.
    """
    return decode_gray(read_encoded(path), os.fspath(path))


def read_encoded(path: str | os.PathLike[str]) -> bytes:
    """Read an image file without decoding it.

    Raises:
        ImageError: the file is missing, empty or too large.
    """
    path = Path(path)
    try:
        status = path.stat()
        if path.is_dir():
            raise ImageError(f"{path}: not an image file but a folder")
        if path.is_file() and status.st_size == 0:
            raise ImageError(f"{path}: the file is empty")
        if status.st_size > MAX_FILE_SIZE:
            raise ImageError(f"{path}: {status.st_size / 1e9:.1f} GB is too large for an image")
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the name
        _raise_if_exhausted(error, str(path))
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{path}: cannot be read ({reason})") from None


def num_pages(path: str | os.PathLike[str]) -> int:
    """Number of pages or frames of an image file by its header; 1 if it cannot be read.

    2 also stands for more.
    """
    try:
        return parse_header(Path(path).read_bytes()).num_pages
    except (OSError, ValueError):
        return 1


def decode_gray(data: bytes, name: str, upright: bool = True) -> Gray:
    """Decode an image file. See `read_gray`.

    Args:
        data: content of the file.
        name: name of the file, for messages.
        upright: whether to rotate the image by its EXIF orientation.

    Raises:
        ImageError: truncated, too many pixels, or not an image.
    """
    try:
        header = parse_header(data)
    except ValueError as error:
        raise ImageError(f"{name}: {error}") from None
    _check_header(header, len(data), name)
    encoded = np.frombuffer(data, np.uint8)
    if header.format == "JPEG" and data.find(b"\xff\xd9", scan_start(data)) < 0:
        encoded = _ended_jpeg(data, name)
    image = _decode_opencv(encoded, name, upright)
    if header.num_pages > 1:
        warnings.warn(
            f"{name}: has several pages or frames; only the first one is read",
            ImageWarning,
            stacklevel=4,
        )
    return to_gray(image, name)


def _check_header(header: ImageHeader, file_size: int, name: str) -> None:
    """Check the stated size: a small file can state a size that takes gigabytes to decode."""
    if header.width < 1 or header.height < 1:
        raise ImageError(f"{name}: damaged; its size is {header.width}×{header.height} pixels")
    check_size(header.height, header.width, name)
    size = header.width * header.height * header.bytes_per_pixel
    if size > max(MAX_SMALL_FILE_MEMORY, MAX_EXPANSION * file_size):
        raise ImageError(
            f"{name}: states {header.width}×{header.height} pixels in {file_size} bytes; damaged, "
            "or without any detail"
        )


def _ended_jpeg(data: bytes, name: str) -> NDArray[np.uint8]:
    """A JPEG file without an end marker, with the marker; it is refused if pixels are missing.

    The decoder ignores data behind the last pixel. If it does not ignore them, pixels are missing.
    """
    complete, continued = (
        np.frombuffer(data + more + b"\xff\xd9", np.uint8) for more in (b"", _CONTINUATION)
    )
    if not np.array_equal(_decode_opencv(complete, name), _decode_opencv(continued, name)):
        raise ImageError(f"{name}: the JPEG file is truncated")
    return complete


def _decode_opencv(encoded: NDArray[np.uint8], name: str, upright: bool = True) -> NDArray[Any]:
    flags = cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH  # ANYDEPTH keeps 16 bits
    if not upright:
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(encoded, flags)
    except (cv2.error, MemoryError) as error:
        _raise_if_exhausted(error, name)
        raise ImageError(f"{name}: damaged, cannot be decoded") from None
    if image is None:
        raise ImageError(f"{name}: damaged, or not an image format that OpenCV reads")
    return np.asarray(image)


def _raise_if_exhausted(error: Exception, name: str) -> None:
    """Raise ResourceError if the machine, not the image, caused an error."""
    lack = exhausted_resource(error)
    if lack:
        raise ResourceError(f"{name}: {lack}") from None


def load_gray(image: Image) -> Gray:
    """Read a path, or convert an array or a Pillow image, to a gray image (H, W) uint8.

    A Pillow image of any mode is rotated upright by its EXIF orientation, as a file is.

    Raises:
        ImageError: see `read_gray` and `to_gray`.
    """
    if isinstance(image, (str, os.PathLike)):
        return read_gray(image)
    if is_pillow(image):
        image = from_pillow(image)
    elif image is None or np.isscalar(image) or hasattr(image, "keypoints"):
        raise ImageError(f"image must be a path or an array (H, W[, 3]), not {image!r}")
    return to_gray(image)


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


def resize_gray(image: Gray, size: tuple[int, int]) -> Gray:
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

"""Images of a collection: names, reading, and the frames of their points.

COLMAP and hloc ignore the EXIF orientation of an image, networks need it upright. So there are two
frames. The *stored frame* has the pixels of the file as they are stored; keypoints are saved in it.
The *working frame* is upright and shrunk to the maximum size; features are extracted and matched
in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ImageError, PairListError, UsageError
from featherglue.io.exif import jpeg_orientation
from featherglue.io.gray import Gray
from featherglue.io.image import (
    decode_gray,
    list_images,
    map_points,
    read_encoded,
    resize_gray,
    resized_size,
)
from featherglue.io.lines import quote_name

Float = NDArray[np.float32]
_EXIF_BYTES = 1 << 16  # the tags precede the pixels
_HALF = 127  # of a mask that is shrunk
# EXIF orientation -> whether the axes are swapped, and which axes of the stored frame are flipped.
_ORIENTATIONS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The frames of an image.

    Attributes:
        size: (width, height) of the stored frame.
        working_size: (width, height) of the working frame.
        orientation: EXIF orientation, 1 to 8, that makes the stored image upright.
    """

    size: tuple[int, int]
    working_size: tuple[int, int]
    orientation: int = 1

    @staticmethod
    def of(size: tuple[int, int], orientation: int, max_size: int | None) -> Frame:
        """The frames of an image whose longest side is shrunk to `max_size` pixels."""
        upright = size[::-1] if _ORIENTATIONS[orientation][0] else size
        shrinks = max_size is not None and max(upright) > max_size
        working = resized_size(upright, (max_size,) if shrinks and max_size else ())
        return Frame(size=size, working_size=working, orientation=orientation)

    @property
    def scale(self) -> float:
        """Pixels of the stored frame per pixel of the working frame."""
        return float(np.sqrt(np.prod(self.size) / np.prod(self.working_size)))

    def to_stored(self, points: Float) -> Float:
        """Map points (N, 2) from the working frame to the stored frame."""
        swapped, *flips = _ORIENTATIONS[self.orientation]
        upright = map_points(points, self.working_size, self._upright_size())
        return self._flipped(upright[:, ::-1] if swapped else upright, flips)

    def to_working(self, points: Float) -> Float:
        """Map points (N, 2) from the stored frame to the working frame."""
        swapped, *flips = _ORIENTATIONS[self.orientation]
        flipped = self._flipped(points, flips)
        upright = np.ascontiguousarray(flipped[:, ::-1]) if swapped else flipped
        return map_points(upright, self._upright_size(), self.working_size)

    def _upright_size(self) -> tuple[int, int]:
        return self.size[::-1] if _ORIENTATIONS[self.orientation][0] else self.size

    def _flipped(self, points: Float, flips: Sequence[bool]) -> Float:
        flipped = np.array(points, np.float32)
        for axis, flip in enumerate(flips):
            if flip:
                flipped[:, axis] = self.size[axis] - 1 - flipped[:, axis]
        return flipped


def read_view(path: str | os.PathLike[str], max_size: int | None) -> tuple[Gray, Frame]:
    """Read an image in its working frame.

    Args:
        path: the image file.
        max_size: px, maximum of the longest side; None keeps the size.

    Returns:
        The image (H, W) uint8 in the working frame, and its frames.

    Raises:
        ImageError: the image cannot be read.
    """
    encoded = read_encoded(path)
    stored = decode_gray(encoded, os.fspath(path), upright=False)
    orientation = jpeg_orientation(encoded[:_EXIF_BYTES])
    frame = Frame.of((stored.shape[1], stored.shape[0]), orientation, max_size)
    return _to_working(stored, frame), frame


def read_mask(path: str | os.PathLike[str], frame: Frame) -> Gray:
    """Read the mask of an image in the working frame of the image.

    Args:
        path: the mask file; it has the pixels of the image file as they are stored.
        frame: frames of the image.

    Returns:
        (H, W) uint8; 0 is ignored.

    Raises:
        ImageError: the mask cannot be read, or has another size than the image.
    """
    mask = decode_gray(read_encoded(path), os.fspath(path), upright=False)
    if mask.shape[::-1] != frame.size:
        raise ImageError(
            f"{path}: the mask has {mask.shape[1]}×{mask.shape[0]} pixels, its image "
            f"{frame.size[0]}×{frame.size[1]}"
        )
    used = np.where(mask > 0, np.uint8(255), np.uint8(0))
    return np.asarray(_to_working(used, frame) > _HALF, np.uint8)


def read_masked(
    path: str | os.PathLike[str], mask: str | os.PathLike[str], max_size: int | None = None
) -> tuple[Gray, Gray | None]:
    """Read an image and its mask, both upright; None if the mask does not exist.

    Raises:
        ImageError: a file cannot be read, or the mask has another size than the image.
    """
    image, frame = read_view(path, max_size)
    return image, read_mask(mask, frame) if Path(mask).exists() else None


def mask_path(masks: str | os.PathLike[str], name: str) -> Path:
    """The mask of an image by COLMAP's convention: its name with .png behind it."""
    return Path(masks) / f"{name}.png"


def checked_masks(masks: str | os.PathLike[str], names: Sequence[str]) -> Path:
    """The absolute path of a folder of masks. Raises UsageError if it has none of any image."""
    folder = Path(masks).absolute()
    if names and not any(mask_path(folder, name).is_file() for name in names):
        raise UsageError(
            f"`masks`: {folder} has no mask of any image; that of {names[0]} would be "
            f"{mask_path(folder, names[0])}"
        )
    return folder


def _to_working(stored: Gray, frame: Frame) -> Gray:
    swapped, flip_x, flip_y = _ORIENTATIONS[frame.orientation]
    upright = stored[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
    upright = upright.T if swapped else upright
    return resize_gray(np.ascontiguousarray(upright), frame.working_size)


def image_names(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the images of a folder and its sub-folders, relative to it, in natural order.

    Raises:
        ImageError: the folder does not exist or has no images; names that a pair list or a match
            file cannot hold or tell apart.
    """
    root = Path(folder)
    names = [path.relative_to(root).as_posix() for path in list_images(root, recursive=True)]
    taken: dict[str, str] = {}
    for name in names:
        _check_name(name)
        other = taken.setdefault(name.replace("/", "-"), name)
        if other != name:
            raise ImageError(
                f"{root}: {other!r} and {name!r} have the same name in a match file, which writes "
                "/ as -: rename one of them"
            )
    return names


def _check_name(name: str) -> None:
    """Raise ImageError if a pair list or a feature file cannot hold a name."""
    try:
        quote_name(name).encode()
    except (PairListError, UnicodeEncodeError):
        raise ImageError(f"{name!r}: a pair list cannot hold this name: rename the image") from None

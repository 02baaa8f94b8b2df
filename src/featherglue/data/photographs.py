"""A folder of photographs as training data."""

from __future__ import annotations

import copy
import os
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import ImageError, ResourceError, TrainingError, counted
from featherglue.io.exif import jpeg_orientation
from featherglue.io.gray import Gray
from featherglue.io.image import list_images, read_gray
from featherglue.machine import exhausted_resource, num_cores

Points = NDArray[np.float32]
_MIN_VALIDATION = 4


@dataclass(frozen=True)
class PhotoCrop:
    """The part of a photograph that a training image shows.

    Attributes:
        index: index of the photograph in its folder.
        mirrored: whether the photograph was mirrored before the crop.
        left, top: corner of the crop, pixels of the (mirrored) photograph.
        min_rank: minimum rank of the keypoints that count; see `PhotoFolder.ranked_keypoints`.
    """

    index: int
    mirrored: bool
    left: int = 0
    top: int = 0
    min_rank: float = 0.0


class PhotoFolder:
    """The photographs of a folder and its subfolders, as encoded files in memory.

    Unreadable and small images are skipped; a warning names them.

    Args:
        folder: folder of images.
        min_side: minimum width and height of a photograph, pixels.

    Attributes:
        names: paths of the photographs below the folder, with `/`, sorted.
        skipped: file names of the images that were skipped.
        longest: longest side of all photographs, pixels.

    Raises:
        ImageError: the folder does not exist or holds no image.
        TrainingError: no image is usable.
    """

    def __init__(self, folder: str | os.PathLike[str], min_side: int = 64) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.skipped: list[str] = []
        self._encoded: list[bytes] = []
        self.longest = 0
        paths = list_images(folder, recursive=True)
        with ThreadPoolExecutor(num_cores()) as pool:
            for path, (encoded, sides) in zip(paths, pool.map(_read, paths), strict=True):
                if encoded and min(sides) >= min_side:
                    self.names.append(path.relative_to(folder).as_posix())
                    self._encoded.append(encoded)
                    self.longest = max(self.longest, *sides)
                else:
                    self.skipped.append(path.name)
        if self.skipped:
            shown = ", ".join(self.skipped[:3])
            warnings.warn(
                f"{folder}: skipped {counted(len(self.skipped), 'image')}, unreadable or smaller "
                f"than {min_side} px: {shown}{' …' if len(self.skipped) > 3 else ''}",
                stacklevel=2,
            )
        if not self.names:
            raise TrainingError(f"{folder}: no usable image of at least {min_side} px")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Gray:
        encoded = np.frombuffer(self._encoded[index], np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        if image is None:  # it could be decoded when the folder was opened
            raise ResourceError(f"{self.names[index]}: not enough memory to decode it")
        return np.asarray(image, np.uint8)

    def orientation(self, index: int) -> int:
        """EXIF orientation of photograph `index`, 1 to 8, by which it is turned; 1 is upright."""
        return jpeg_orientation(self._encoded[index])

    def draw(self, rng: np.random.Generator) -> tuple[Gray, PhotoCrop]:
        """A random photograph (H, W), mirrored with probability 1/2."""
        index = int(rng.integers(len(self)))
        photo, mirrored = self[index], bool(rng.random() < 0.5)
        image = np.ascontiguousarray(photo[:, ::-1]) if mirrored else photo
        return image, PhotoCrop(index, mirrored)

    def keypoints(self, image: Gray, crop: PhotoCrop) -> Points:
        """Keypoint targets of a training image: its Shi-Tomasi corners, strongest first.

        Args:
            image: (H, W) uint8, as drawn or cropped further.
            crop: the part of the photograph that the image shows.

        Returns:
            (N, 2) float32 xy pixels of the image.
        """
        del crop
        return detect_corners(image)

    @property
    def rank_limits(self) -> tuple[float, float]:
        """Range from which `draw` takes the minimum rank of an image's keypoints."""
        return 0.0, 0.0

    def ranked_keypoints(self, index: int, image: Gray) -> tuple[Points, NDArray[np.float32]]:
        """All keypoint targets of a photograph with their ranks, strongest first.

        Args:
            index: index of the photograph.
            image: (H, W) uint8, the photograph.

        Returns:
            (N, 2) float32 xy pixels; (N,) float32 ranks, which are compared with
            `PhotoCrop.min_rank`.
        """
        del index
        found = detect_corners(image)
        return found, np.ones(len(found), np.float32)

    def split(self, fraction: float) -> tuple[PhotoFolder, PhotoFolder]:
        """Training and validation photographs, assigned by a hash of their names.

        Args:
            fraction: fraction of the photographs for validation; at least four are taken.

        Raises:
            TrainingError: the folder has fewer than five times the validation photographs.
        """
        count = max(_MIN_VALIDATION, round(fraction * len(self)))
        if len(self) < 5 * count:
            raise TrainingError(
                f"{self.folder}: has {counted(len(self), 'photograph')}, too few to set {count} "
                "aside for validation; add photographs, or set validation.fraction = 0"
            )
        order = sorted(range(len(self)), key=lambda i: zlib.crc32(self.names[i].encode()))
        return self._subset(sorted(order[count:])), self._subset(sorted(order[:count]))

    def _subset(self, indices: list[int]) -> PhotoFolder:
        subset = copy.copy(self)
        subset.names = [self.names[i] for i in indices]
        subset._encoded = [self._encoded[i] for i in indices]
        return subset


def _read(path: Path) -> tuple[bytes, tuple[int, ...]]:
    """An image file with its height and width; empty if it cannot be decoded."""
    try:
        return path.read_bytes(), read_gray(path).shape
    except (ImageError, OSError) as error:
        lack = exhausted_resource(error)
        if lack:
            raise ResourceError(f"{path}: {lack}") from None
        return b"", (0, 0)


def detect_corners(image: Gray, max_corners: int = 1000, spacing: float = 4.0) -> Points:
    """Shi-Tomasi corners with sub-pixel accuracy, strongest first.

    Args:
        image: (H, W) uint8.
        max_corners: maximum number of corners.
        spacing: minimum distance between two corners, pixels.

    Returns:
        (N, 2) float32 xy.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    found = cv2.goodFeaturesToTrack(smooth, max_corners, 0.01, spacing, blockSize=3)
    if found is None or len(found) == 0:  # OpenCV returns None, contrary to its type stubs
        return np.zeros((0, 2), np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 0.03)
    refined = cv2.cornerSubPix(smooth, found.copy(), (2, 2), (-1, -1), criteria)
    converged = np.abs(refined - found).max(axis=(1, 2)) <= 2
    return np.where(converged[:, None], refined[:, 0], found[:, 0]).astype(np.float32)

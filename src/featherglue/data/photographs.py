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

from featherglue.errors import ImageError, TrainingError
from featherglue.io.image import list_images, read_grey

Grey = NDArray[np.uint8]
Points = NDArray[np.float32]
_FEWEST_KEPT = 4


@dataclass(frozen=True)
class Source:
    """Where a picture was taken from.

    Attributes:
        index: of the photograph. mirrored: whether it was mirrored first.
        left, top: px, the corner of the part that was cut out.
        minimum: lowest rank of a keypoint of it, where keypoints have one.
    """

    index: int
    mirrored: bool
    left: int = 0
    top: int = 0
    minimum: float = 0.0


class PhotoFolder:
    """The photographs of a folder, kept in memory as their encoded files.

    Broken files are counted, skipped and named in a warning.

    Attributes:
        folder: where they are.
        names: the readable photographs' file names, sorted. broken: those that were skipped.
        longest: px, the longest side of all.
    """

    def __init__(self, folder: str | os.PathLike[str], smallest_side: int = 64) -> None:
        self.folder = folder
        self.names: list[str] = []
        self.broken: list[str] = []
        self._encoded: list[bytes] = []
        self.longest = 0
        paths = list_images(folder, recursive=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for path, (encoded, sides) in zip(paths, pool.map(_read, paths), strict=True):
                if encoded and min(sides) >= smallest_side:
                    self.names.append(path.relative_to(folder).as_posix())
                    self._encoded.append(encoded)
                    self.longest = max(self.longest, *sides)
                else:
                    self.broken.append(path.name)
        if self.broken:
            shown = ", ".join(self.broken[:3])
            warnings.warn(
                f"{folder}: skipped {len(self.broken)} images that are broken or smaller than "
                f"{smallest_side} px: {shown}{' …' if len(self.broken) > 3 else ''}",
                stacklevel=2,
            )
        if not self.names:
            raise TrainingError(f"{folder}: no usable image of at least {smallest_side} px")

    def keypoints(self, image: Grey, source: Source) -> Points:
        """What is to be learned as keypoints of a picture: its corners, strongest first.

        Args:
            image: (H, W), the picture. source: where it was taken from.

        Returns:
            (N, 2) float32 xy.
        """
        del source
        return corners(image)

    @property
    def limits(self) -> tuple[float, float]:
        """Between which the lowest rank of a picture's keypoints is drawn."""
        return 0.0, 0.0

    def ranked_keypoints(self, index: int, image: Grey) -> tuple[Points, NDArray[np.float32]]:
        """All that can be learned as keypoints of a photograph, strongest first, and their ranks.

        Args:
            index, image: of the photograph, (H, W).

        Returns:
            (N, 2) float32 xy; (N,) float32, of which those count that reach a picture's limit.
        """
        del index
        found = corners(image)
        return found, np.ones(len(found), np.float32)

    def split(self, share: float) -> tuple[PhotoFolder, PhotoFolder]:
        """The photographs to train on, and those kept for validation, told apart by their names.

        Args:
            share: of the photographs that are kept; at least four are.

        Raises:
            TrainingError: there are too few.
        """
        count = max(_FEWEST_KEPT, round(share * len(self)))
        if len(self) < 5 * count:
            raise TrainingError(
                f"{self.folder}: {len(self)} photographs are too few to keep {count} for "
                "validation; add photographs, or set share = 0 under [validation]"
            )
        order = sorted(range(len(self)), key=lambda i: zlib.crc32(self.names[i].encode()))
        return self._part(sorted(order[count:])), self._part(sorted(order[:count]))

    def _part(self, chosen: list[int]) -> PhotoFolder:
        part = copy.copy(self)
        part.names = [self.names[i] for i in chosen]
        part._encoded = [self._encoded[i] for i in chosen]
        return part

    def __len__(self) -> int:
        return len(self.names)

    def draw(self, rng: np.random.Generator) -> tuple[Grey, Source]:
        """A random photograph, every second one mirrored."""
        index = int(rng.integers(len(self)))
        photo, mirrored = self[index], bool(rng.random() < 0.5)
        return (np.ascontiguousarray(photo[:, ::-1]) if mirrored else photo), Source(
            index, mirrored
        )

    def __getitem__(self, index: int) -> Grey:
        encoded = np.frombuffer(self._encoded[index], np.uint8)
        image = cv2.imdecode(encoded, cv2.IMREAD_GRAYSCALE)
        assert image is not None, self.names[index]
        return np.asarray(image, np.uint8)


def _read(path: Path) -> tuple[bytes, tuple[int, ...]]:
    """A photograph as its file, and its height and width; nothing of a broken one."""
    try:
        return path.read_bytes(), read_grey(path).shape
    except (ImageError, OSError):
        return b"", (0, 0)


def corners(image: Grey, most: int = 1000, spacing: float = 4.0) -> Points:
    """Shi-Tomasi corners, strongest first, to a fraction of a pixel.

    Args:
        image: (H, W) uint8.

    Returns:
        (N, 2) float32 xy.
    """
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    found = cv2.goodFeaturesToTrack(smooth, most, 0.01, spacing, blockSize=3)
    if found is None or len(found) == 0:  # None where there are none, whatever the stubs say
        return np.zeros((0, 2), np.float32)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 10, 0.03)
    refined = cv2.cornerSubPix(smooth, found.copy(), (2, 2), (-1, -1), criteria)
    moved = np.abs(refined - found).max(axis=(1, 2)) <= 2
    return np.where(moved[:, None], refined[:, 0], found[:, 0]).astype(np.float32)

"""Files of depth maps, and the exact correspondences that depth and poses give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.data.detector_labels import CELL
from featherglue.data.photographs import PhotoFolder
from featherglue.data.posed_photo import PosedPhoto
from featherglue.errors import StoredFileError, TrainingError
from featherglue.io.files import write_npz
from featherglue.io.npz import read_npz

Array = NDArray[np.float64]
Depth = NDArray[np.float32]
AGREEMENT = 0.02
"""Maximum difference of two depths that agree, relative to the depth."""
_MIN_BYTES = 1000  # of a file with pixels
_OCCLUDED = 0.05  # minimum distance of a point behind a surface, relative to the depth


def save_depth(path: Path, depth: Depth | None) -> None:
    """Write a depth map (h, w) with NaN where it is unknown; None has no pixels.

    Raises:
        OutputError: the file cannot be written.
    """
    values = np.full((0, 0), np.nan, np.float32) if depth is None else depth
    known = values[np.isfinite(values)]
    unit = float(np.median(known)) if len(known) else 1.0
    relative = np.where(np.isfinite(values), values / unit, 0).astype(np.float16)
    write_npz(path, {"depth": relative, "unit": np.array(unit)})


class DepthMaps:
    """A folder of depth maps, as `featherglue depth` writes it.

    Each is an npz file with `depth`, (h, w) float16 in multiples of `unit`, 0 where it is unknown.
    Its name has a fingerprint of the camera and the points of its model, so photographs of several
    models, or of one that was made again, get depth maps of their own.

    Args:
        folder: the folder.
        photos: the photographs.
    """

    def __init__(self, folder: str | os.PathLike[str], photos: PhotoFolder) -> None:
        self.folder, self.photos = Path(folder), photos

    def path(self, photo: PosedPhoto) -> Path:
        """The file of a photograph of a model."""
        return self.folder / f"{self.photos.names[photo.number]}.{photo.state}.npz"

    def has(self, photo: PosedPhoto) -> bool:
        """Whether a photograph has a depth map with pixels; it is not read."""
        path = self.path(photo)
        return path.is_file() and path.stat().st_size >= _MIN_BYTES

    def read(self, photo: PosedPhoto) -> Depth | None:
        """The depth map of a photograph, (h, w) float32 with NaN; None if it has no pixels.

        Raises:
            TrainingError: the file is missing or damaged.
        """
        path = self.path(photo)
        try:
            arrays = read_npz(path)
            relative, unit = arrays["depth"], arrays["unit"]
            if relative.ndim != 2 or unit.shape or {relative.dtype.kind, unit.dtype.kind} != {"f"}:
                raise ValueError("other arrays than those of a depth map")
            if not (np.isfinite(unit) and unit > 0):
                raise ValueError(f"a unit of {unit}")
        except (StoredFileError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{path}: cannot be read as a depth map ({error}); run `featherglue depth` again"
            ) from None
        if not relative.size:
            return None
        depth = relative.astype(np.float32) * np.float32(unit)
        return np.where(relative > 0, depth, np.nan).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthTransfer:
    """Where the points of one photograph are in another one, by depth maps and poses.

    Attributes:
        depth0, depth1: (h0, w0) and (h1, w1) float32, NaN where the depth is unknown. They may be
            smaller than the photographs.
        size0, size1: (width, height) of the photographs.
        K0, K1: (3, 3) intrinsics for pixels of the photographs.
        pose: (3, 4), the first camera's coordinates to the second's.
    """

    depth0: Depth
    depth1: Depth
    size0: tuple[int, int]
    size1: tuple[int, int]
    K0: Array
    K1: Array
    pose: Array

    def swapped(self) -> DepthTransfer:
        """The transfer in the other direction."""
        R, t = self.pose[:, :3].T, self.pose[:, 3]
        return DepthTransfer(
            depth0=self.depth1,
            depth1=self.depth0,
            size0=self.size1,
            size1=self.size0,
            K0=self.K1,
            K1=self.K0,
            pose=np.concatenate((R, (-R @ t)[:, None]), 1),
        )

    def __call__(self, points: NDArray[np.floating]) -> NDArray[np.float32]:
        """The positions of points (N, 2) xy in the second photograph, (N, 2) float32 xy.

        NaN where the depth of either photograph is unknown there, or where both contradict each
        other. Infinite where the second photograph does not show the point: it lies outside, or
        behind a surface.
        """
        depth = look_up(self.depth0, points, self.size0)
        homogeneous = np.concatenate((points, np.ones((len(points), 1))), 1)
        rays = homogeneous @ np.linalg.inv(self.K0).T
        there = (rays * depth[:, None]) @ self.pose[:, :3].T + self.pose[:, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            projected = (there @ self.K1.T)[:, :2] / there[:, 2:]
        width, height = self.size1
        inside = (there[:, 2] > 0) & (projected >= 0).all(1)
        inside &= (projected[:, 0] <= width - 1) & (projected[:, 1] <= height - 1)
        surface = look_up(self.depth1, projected, self.size1)
        agree = np.abs(there[:, 2] - surface) <= AGREEMENT * surface
        hidden = np.isfinite(depth) & (~inside | (there[:, 2] > (1 + _OCCLUDED) * surface))
        found = np.where((inside & agree)[:, None], projected, np.nan)
        found[hidden] = np.inf
        return found.astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthLocation:
    """Places points of a photograph in the coordinates of its model, by its depth map and pose.

    Attributes:
        depth: (h, w) float32, NaN where it is unknown.
        photo: the photograph.
    """

    depth: Depth
    photo: PosedPhoto

    def __call__(self, points: NDArray[np.floating]) -> tuple[Depth, Depth]:
        """Positions (N, 3) of points (N, 2) xy and their uncertainties (N,), NaN if unknown.

        A position is uncertain by the difference of two depths that agree, and by a cell of the
        networks, 8 px.
        """
        depth = look_up(self.depth, points, self.photo.size)
        homogeneous = np.concatenate((points, np.ones((len(points), 1))), 1)
        there = homogeneous @ np.linalg.inv(self.photo.K).T * depth[:, None]
        pose = self.photo.world_to_camera
        positions = (there - pose[:, 3]) @ pose[:, :3]
        uncertain = depth * (AGREEMENT + CELL / self.photo.K[0, 0])
        return positions.astype(np.float32), uncertain.astype(np.float32)


def look_up(depth: Depth, points: NDArray[np.floating], size: tuple[int, int]) -> Depth:
    """The depth (N,) at the pixels nearest to points (N, 2) xy; NaN outside.

    Args:
        depth: (h, w) float32.
        size: (width, height) of the photograph that the points are in.
    """
    inside = np.isfinite(points).all(1)
    inside &= (points > -0.5).all(1) & (points < np.array(size) - 0.5).all(1)
    scale = np.array(depth.shape[::-1]) / size
    x, y = np.floor((np.where(inside[:, None], points, 0) + 0.5) * scale).astype(np.int64).T
    found = np.full(len(points), np.nan, np.float32)
    found[inside] = depth[y[inside], x[inside]]
    return found

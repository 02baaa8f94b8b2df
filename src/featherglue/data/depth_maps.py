"""Files of depth maps, and the exact correspondences that depth and poses give."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featherglue.data.photographs import PhotoFolder
from featherglue.errors import StoredFileError, TrainingError
from featherglue.io.files import write_npz
from featherglue.io.npz import read_npz

Array = NDArray[np.float64]
Depth = NDArray[np.float32]
AGREEMENT = 0.02
"""Maximum difference of two depths that agree, relative to the depth."""
_OCCLUDED = 0.05  # minimum distance of a point behind a surface, relative to the depth


def depth_path(folder: str | os.PathLike[str], name: str) -> Path:
    """The depth map of the photograph `name` in a folder of depth maps."""
    return Path(folder) / f"{name}.npz"


def save_depth(path: Path, depth: Depth | None) -> None:
    """Write a depth map (H, W) with NaN where it is unknown; None has no pixels.

    Raises:
        OutputError: the file cannot be written.
    """
    values = np.full((0, 0), np.nan, np.float32) if depth is None else depth
    known = values[np.isfinite(values)]
    unit = float(np.median(known)) if len(known) else 1.0
    path.parent.mkdir(parents=True, exist_ok=True)
    relative = np.where(np.isfinite(values), values / unit, 0).astype(np.float16)
    write_npz(path, {"depth": relative, "unit": np.array(unit)})


class DepthMaps:
    """A folder of depth maps, as `featherglue depth` writes it.

    Each is an npz file with `depth`, (H, W) float16 in multiples of `unit`, 0 where it is unknown.

    Args:
        folder: the folder.
        photos: the photographs.

    Raises:
        TrainingError: the folder has no depth map of any photograph.
    """

    def __init__(self, folder: str | os.PathLike[str], photos: PhotoFolder) -> None:
        self.folder, self.photos = folder, photos
        if not any(depth_path(folder, name).is_file() for name in photos.names):
            raise TrainingError(
                f"{os.fspath(folder)}: no depth maps of the photographs of "
                f"{os.fspath(photos.folder)}; `featherglue depth` makes them"
            )

    def __getitem__(self, number: int) -> Depth | None:
        """The depth map of photograph `number`, (H, W) float32 with NaN; None without one.

        Raises:
            TrainingError: the file is damaged, or of a photograph of another size.
        """
        path = depth_path(self.folder, self.photos.names[number])
        if not path.is_file():
            return None
        try:
            arrays = read_npz(path)
            relative, unit = arrays["depth"], float(arrays["unit"])
        except (StoredFileError, KeyError) as error:
            raise TrainingError(f"{path}: cannot be read as a depth map ({error})") from None
        if not relative.size:
            return None
        shape = self.photos[number].shape
        if relative.shape != shape:
            raise TrainingError(
                f"{path}: {relative.shape[1]}×{relative.shape[0]} px, but the photograph has "
                f"{shape[1]}×{shape[0]}"
            )
        depth = relative.astype(np.float32) * np.float32(unit)
        return np.where(relative > 0, depth, np.nan).astype(np.float32)


@dataclass(frozen=True, kw_only=True, eq=False)
class DepthTransfer:
    """Where the points of one photograph are in another one, by depth maps and poses.

    Attributes:
        depth0, depth1: (H0, W0) and (H1, W1) float32, NaN where the depth is unknown.
        K0, K1: (3, 3) intrinsics.
        pose: (3, 4), the first camera's coordinates to the second's.
    """

    depth0: Depth
    depth1: Depth
    K0: Array
    K1: Array
    pose: Array

    def swapped(self) -> DepthTransfer:
        """The transfer in the other direction."""
        R, t = self.pose[:, :3].T, self.pose[:, 3]
        return DepthTransfer(
            depth0=self.depth1,
            depth1=self.depth0,
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
        depth = look_up(self.depth0, points)
        homogeneous = np.concatenate((points, np.ones((len(points), 1))), 1)
        rays = homogeneous @ np.linalg.inv(self.K0).T
        there = (rays * depth[:, None]) @ self.pose[:, :3].T + self.pose[:, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            projected = (there @ self.K1.T)[:, :2] / there[:, 2:]
        height, width = self.depth1.shape
        inside = (there[:, 2] > 0) & (projected >= 0).all(1)
        inside &= (projected[:, 0] <= width - 1) & (projected[:, 1] <= height - 1)
        surface = look_up(self.depth1, projected)
        agree = np.abs(there[:, 2] - surface) <= AGREEMENT * surface
        hidden = np.isfinite(depth) & (~inside | (there[:, 2] > (1 + _OCCLUDED) * surface))
        found = np.where((inside & agree)[:, None], projected, np.nan)
        found[hidden] = np.inf
        return found.astype(np.float32)


def look_up(depth: Depth, points: NDArray[np.floating]) -> Depth:
    """The depth (N,) at the pixels nearest to points (N, 2) xy; NaN outside."""
    inside = np.isfinite(points).all(1)
    x, y = np.where(inside[:, None], points, 0).round().astype(np.int64).T
    inside &= (x >= 0) & (y >= 0) & (x < depth.shape[1]) & (y < depth.shape[0])
    found = np.full(len(points), np.nan, np.float32)
    found[inside] = depth[y[inside], x[inside]]
    return found

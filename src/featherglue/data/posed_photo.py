"""A photograph of a COLMAP model: its camera and the points that it observes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from featherglue.fingerprint import fingerprint

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PosedPhoto:
    """A photograph of a COLMAP model.

    Attributes:
        number: index of the photograph in its `PhotoFolder`.
        size: (width, height) of the photograph.
        K: (3, 3) intrinsics for pixels of the photograph.
        world_to_camera: (3, 4) pose.
        points: (N,) int64, ascending numbers of the observed 3D points, unique.
        observations: (N, 2) float32 xy, pixels of the photograph.
        positions: (N, 3) float64, the points in the coordinates of the model.
    """

    number: int
    size: tuple[int, int]
    K: Array
    world_to_camera: Array
    points: NDArray[np.int64]
    observations: NDArray[np.float32]
    positions: Array

    @property
    def center(self) -> Array:
        """Center (3,) of the camera in the coordinates of the model."""
        return -self.world_to_camera[:, :3].T @ self.world_to_camera[:, 3]

    @property
    def state(self) -> str:
        """Fingerprint of the camera and the points."""
        arrays = (self.K, self.world_to_camera, self.points, self.positions)
        return fingerprint([zlib.crc32(array.tobytes()) for array in arrays])

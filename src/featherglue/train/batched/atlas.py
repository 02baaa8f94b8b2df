"""All photographs of a folder and their keypoints as tensors on a device.

Shape legend: N photographs, P keypoints of a photograph (padded).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from featherglue.data.photographs import PhotoFolder, Points
from featherglue.io.gray import Gray
from featherglue.machine import num_cores
from featherglue.train.batched.draws import Draws

_LEVELS = 3
_PIXELS_AT_ONCE = 2**25  # number of pixels that are decoded and shrunk in one piece
_KEYPOINT_BYTES = 12 * 1000  # upper bound for the keypoints of a photograph


@dataclass(frozen=True, eq=False)
class Textures:
    """Regions of photographs. All tensors have the same shape.

    Attributes:
        photo: int64, index of the photograph.
        mirrored: bool, whether the photograph is mirrored first.
        left, top: corner of the region in pixels.
        width, height: size of the region in pixels.
        min_rank: minimum rank of a keypoint.
    """

    photo: Tensor
    mirrored: Tensor
    left: Tensor
    top: Tensor
    width: Tensor
    height: Tensor
    min_rank: Tensor


class Atlas:
    """Photographs in memory, each at full, half and quarter size.

    Corners are detected once in each whole photograph. A region has those of its photograph, while
    `PhotoFolder.keypoints` detects corners in the region itself.

    Args:
        photos: the photographs; each is decoded once.
        device: device of the tensors.

    Attributes:
        sizes: (N, 2) float32, width and height in pixels.
        points: (N, P, 2) float32, xy in pixels, the strongest first.
        ranks: (N, P) float32, rank of each keypoint; −1 for padding.
    """

    def __init__(self, photos: PhotoFolder, device: torch.device | str) -> None:
        self.device = torch.device(device)
        step = 2 ** (_LEVELS - 1)
        self._side = -(-photos.longest // step) * step
        sides = [self._side >> level for level in range(_LEVELS)]
        lengths = [len(photos) * side**2 for side in sides]
        self._starts = [sum(lengths[:level]) for level in range(_LEVELS)]
        self._pixels = torch.empty(sum(lengths), dtype=torch.uint8, device=self.device)
        self._limits = photos.rank_limits
        sizes: list[tuple[int, int]] = []
        ranked: list[tuple[Points, NDArray[np.float32]]] = []
        at_once = max(1, _PIXELS_AT_ONCE // self._side**2)
        with ThreadPoolExecutor(num_cores()) as pool:
            for first in range(0, len(photos), at_once):
                chosen = range(first, min(first + at_once, len(photos)))
                images = list(pool.map(photos.__getitem__, chosen))
                ranked += pool.map(photos.ranked_keypoints, chosen, images)
                sizes += [(image.shape[1], image.shape[0]) for image in images]
                self._store(first, images)
        self.sizes = torch.tensor(sizes, dtype=torch.float32, device=self.device)
        max_points = max(1, *(len(points) for points, _ in ranked))
        points = np.zeros((len(photos), max_points, 2), np.float32)
        ranks = np.full((len(photos), max_points), -1, np.float32)
        for i, (found, values) in enumerate(ranked):
            points[i, : len(found)], ranks[i, : len(found)] = found, values
        self.points = torch.from_numpy(points).to(self.device)
        self.ranks = torch.from_numpy(ranks).to(self.device)

    @staticmethod
    def bytes_of(photos: PhotoFolder) -> int:
        """Upper bound of the memory in bytes. Every photograph gets the space of the largest."""
        pixels = photos.longest**2 * sum(0.25**level for level in range(_LEVELS))
        return int(len(photos) * (pixels + _KEYPOINT_BYTES)) + 8 * _PIXELS_AT_ONCE

    def _store(self, first: int, images: list[Gray]) -> None:
        """Store photographs in all levels, starting at index `first`."""
        full = np.zeros((len(images), self._side, self._side), np.uint8)
        for i, image in enumerate(images):
            full[i, : image.shape[0], : image.shape[1]] = image
        level = torch.from_numpy(full).to(self.device)
        for number, start in enumerate(self._starts):
            if number:
                level = (F.avg_pool2d(level[:, None].float(), 2) + 0.5).to(torch.uint8)[:, 0]
            begin = start + first * (self._side >> number) ** 2
            self._pixels[begin : begin + level.numel()] = level.reshape(-1)

    def draw(self, draws: Draws, *shape: int) -> Textures:
        """Random whole photographs; each is mirrored with probability 0.5."""
        photo = draws.integers(0, len(self.sizes), *shape)
        width, height = self.sizes[photo].unbind(-1)
        low, high = self._limits
        min_rank = draws.uniform(low, max(low, high), *shape)
        mirrored = draws.chance(0.5, *shape)
        zero = torch.zeros_like(width)
        return Textures(photo, mirrored, zero, zero, width, height, min_rank)

    def keypoints(self, textures: Textures) -> tuple[Tensor, Tensor]:
        """Keypoints (…, P, 2) float32 in pixels of the regions, strongest first; a mask (…, P)."""
        points, ranks = self.points[textures.photo], self.ranks[textures.photo]
        photo_width = self.sizes[textures.photo][..., None, 0]
        x, y = points.unbind(-1)
        x = (
            torch.where(textures.mirrored[..., None], photo_width - 1 - x, x)
            - textures.left[..., None]
        )
        y = y - textures.top[..., None]
        counts = (ranks >= textures.min_rank[..., None]) & (ranks >= 0) & (x >= 0) & (y >= 0)
        counts &= (x <= textures.width[..., None] - 1) & (y <= textures.height[..., None] - 1)
        return torch.stack((x, y), -1), counts

    def sample(self, textures: Textures, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
        """Gray values in [0, 255] at pixels (u, v) of regions, with bilinear interpolation.

        Args:
            textures: regions, one for each pixel.
            u, v: float32 of the same shape, pixels of the regions.
            level: int64 of the same shape; level k has the photographs at 1/2^k of their size.

        Returns:
            float32 of the same shape.
        """
        size = self.sizes[textures.photo]
        x, y = u + textures.left, v + textures.top
        x = torch.where(textures.mirrored, size[..., 0] - 1 - x, x)
        shrink = torch.exp2(-level.float())
        side = self._side >> level
        start = torch.tensor(self._starts, device=self.device)[level]
        start = start + textures.photo * side * side
        corners: list[tuple[Tensor, Tensor]] = []
        fractions: list[Tensor] = []
        for place, length in ((x, size[..., 0]), (y, size[..., 1])):
            last = (length * shrink).floor() - 1
            at = ((place + 0.5) * shrink - 0.5).clamp_min(0).minimum(last)
            low = at.floor()
            corners.append((low.long(), (low + 1).minimum(last).long()))
            fractions.append(at - low)
        (x0, x1), (y0, y1) = corners
        above, below = (
            torch.lerp(
                self._pixels[start + y * side + x0].float(),
                self._pixels[start + y * side + x1].float(),
                fractions[0],
            )
            for y in (y0, y1)
        )
        return torch.lerp(above, below, fractions[1])

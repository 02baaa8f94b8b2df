"""Depth maps of the photographs of COLMAP models, by rectified stereo with several neighbors.

As in MegaDepth (Li, Snavely: MegaDepth: Learning Single-View Depth Prediction from Internet Photos,
CVPR 2018), a depth counts only where several views agree.
"""

from __future__ import annotations

import numpy as np

from featherglue.data.depth_maps import AGREEMENT, Depth
from featherglue.data.multiview import PosedPhoto, count_shared
from featherglue.data.photographs import PhotoFolder
from featherglue.data.stereo import rectify, stereo_depth

_NEIGHBORS = 5  # photographs that the depth of one is estimated with
_TRIED = 12
_MIN_SHARED = 20  # points
_MIN_ANGLE, _BEST_ANGLE = 2.0, 10.0  # degrees between the rays to a point


class DepthEstimator:
    """Estimates depth maps of the photographs of a model.

    Each photograph is matched with up to five neighbors by rectified stereo. A pixel has a depth if
    at least two of them agree to 2 %; it is their mean.

    Args:
        scene: the photographs of the model, from `read_models`.
        photos: all photographs.
    """

    def __init__(self, scene: list[PosedPhoto], photos: PhotoFolder) -> None:
        self.scene, self.photos = scene, photos
        self._shared = count_shared(scene)

    def __call__(self, index: int) -> Depth | None:
        """The depth map of `scene[index]`.

        Returns:
            (H, W) float32, depth along the optical axis in units of the model, NaN where it is
            unknown; None if fewer than two neighbors suit stereo with the photograph.
        """
        photo = self.scene[index]
        image = self.photos[photo.number]
        found: list[Depth] = []
        for other in self._neighbors(index):
            neighbor = self.photos[other.number]
            rectified = rectify(photo, other, image.shape[::-1], neighbor.shape[::-1])
            if rectified is not None:
                found.append(stereo_depth(image, neighbor, rectified))
            if len(found) == _NEIGHBORS:
                break
        return _merged(np.stack(found)) if len(found) > 1 else None

    def _neighbors(self, index: int) -> list[PosedPhoto]:
        """The photographs that suit stereo with photograph `index`, the best ones first."""
        scene, shared = self.scene, self._shared[index]
        scores = np.zeros(len(scene))
        for other in np.flatnonzero(shared >= _MIN_SHARED):
            angle = _median_angle(scene[index], scene[other]) if other != index else 0
            if angle >= _MIN_ANGLE:
                scores[other] = shared[other] * np.exp(-(np.log(angle / _BEST_ANGLE) ** 2))
        order = np.argsort(-scores, kind="stable")[:_TRIED]
        return [scene[i] for i in order if scores[i] > 0]


def _median_angle(first: PosedPhoto, second: PosedPhoto) -> float:
    """Median angle in degrees between the rays of both cameras to their common points."""
    seen = np.isin(first.points, second.points, assume_unique=True)
    rays = [first.positions[seen] - photo.center for photo in (first, second)]
    units = [r / np.maximum(np.linalg.norm(r, axis=1, keepdims=True), 1e-12) for r in rays]
    cosines = (units[0] * units[1]).sum(1).clip(-1, 1)
    return float(np.degrees(np.arccos(np.median(cosines))))


def _merged(depths: Depth) -> Depth:
    """The mean (H, W) of the depths (S, H, W) that agree with their median, at least two."""
    # The lower of two middle depths: their mean may agree with neither.
    middle = (np.isfinite(depths).sum(0) - 1).clip(0) // 2
    median = np.take_along_axis(np.sort(depths, axis=0), middle[None], 0)  # NaN comes last
    agreeing = np.abs(depths - median) <= AGREEMENT * median
    count = agreeing.sum(0)
    mean = np.where(agreeing, depths, 0).sum(0) / count.clip(1)
    return np.where(count >= 2, mean, np.nan).astype(np.float32)

"""Depth maps of the photographs of COLMAP models, by rectified stereo with several neighbors.

As in MegaDepth (Li, Snavely: MegaDepth: Learning Single-View Depth Prediction from Internet Photos,
CVPR 2018), a depth counts only where several views agree.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from featherglue.data.depth_maps import AGREEMENT, Depth, DepthMaps, save_depth
from featherglue.data.multiview import count_shared, read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.data.posed_photo import PosedPhoto
from featherglue.data.stereo import rectify, stereo_depth
from featherglue.errors import TrainingError
from featherglue.io.gray import Gray
from featherglue.io.image import resize_gray
from featherglue.machine import num_cores

_WORKING_SIDE = 640  # px
_NEIGHBORS = 5  # photographs that the depth of one is estimated with
_TRIED = 12
_MIN_SHARED = 20  # points
_MIN_ANGLE, _BEST_ANGLE = 2.0, 10.0  # degrees between the rays to a point


@dataclass(frozen=True, kw_only=True)
class DepthResult:
    """What `estimate_depths` made.

    Attributes:
        num_photos: number of photographs of the models.
        num_reused: number of those whose depth map was there before.
        num_without: number of those without any depth: too few neighbors suit stereo with them.
        coverage: mean fraction of the pixels with a depth, of those that have some; 0 if none has.
    """

    num_photos: int
    num_reused: int
    num_without: int
    coverage: float


def estimate_depths(
    photos: str | os.PathLike[str],
    models: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DepthResult:
    """Estimate a depth map of every photograph of COLMAP models. An interrupted run resumes.

    Args:
        photos: folder of the photographs, the same as for training.
        models: folder of the models, see `read_models`.
        output: folder of the depth maps, see `DepthMaps`.
        threads: number of threads; None takes one per core.
        progress: called with the number of photographs that are done and the number of all.

    Raises:
        MissingExtraError, ImageError, TrainingError: see `read_models`.
        OutputError: a file cannot be written.
    """
    folder = PhotoFolder(photos)
    depths = DepthMaps(output, folder)
    scenes = read_models(models, folder)
    every = [photo for scene in scenes for photo in scene]
    todo = {id(photo) for photo in every if not _is_written(depths, photo)}
    done = reused = len(every) - len(todo)
    if progress is not None and reused:
        progress(done, len(every))
    with ThreadPoolExecutor(threads or num_cores()) as pool:
        for scene in scenes:
            left = [index for index, photo in enumerate(scene) if id(photo) in todo]
            found = pool.map(DepthEstimator(scene, folder), left)
            try:
                for index, depth in zip(left, found, strict=True):
                    save_depth(depths.path(scene[index]), depth)
                    done += 1
                    if progress is not None:
                        progress(done, len(every))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    coverage = [_coverage(depths, photo) for photo in every]
    known = [value for value in coverage if value]
    return DepthResult(
        num_photos=len(every),
        num_reused=reused,
        num_without=len(every) - len(known),
        coverage=float(np.mean(known)) if known else 0.0,
    )


def _is_written(depths: DepthMaps, photo: PosedPhoto) -> bool:
    """Whether the depth map of a photograph is there and complete."""
    try:
        depths.read(photo)
    except TrainingError:
        return False
    return True


def _coverage(depths: DepthMaps, photo: PosedPhoto) -> float:
    """Fraction of the pixels of a photograph with a depth."""
    depth = depths.read(photo)
    return 0.0 if depth is None else float(np.isfinite(depth).mean())


class DepthEstimator:
    """Estimates depth maps of the photographs of a model.

    Each photograph is matched with up to five neighbors by rectified stereo, at a longest side of
    at most 640 px. A pixel has a depth if at least two of them agree to 2 %; it is their mean.

    Args:
        scene: the photographs of the model, from `read_models`.
        photos: all photographs.
    """

    def __init__(self, scene: list[PosedPhoto], photos: PhotoFolder) -> None:
        self.scene, self.photos = [_shrunk(photo) for photo in scene], photos
        self._shared = count_shared(scene)

    def __call__(self, index: int) -> Depth | None:
        """The depth map of `scene[index]`.

        Returns:
            (h, w) float32, depth along the optical axis in units of the model, NaN where it is
            unknown; None if fewer than two neighbors suit stereo with the photograph.
        """
        photo = self.scene[index]
        image = self._image(photo)
        found: list[Depth] = []
        for other in self._neighbors(index):
            rectified = rectify(photo, other)
            if rectified is not None:
                found.append(stereo_depth(image, self._image(other), rectified))
            if len(found) == _NEIGHBORS:
                break
        return _merged(np.stack(found)) if len(found) > 1 else None

    def _image(self, photo: PosedPhoto) -> Gray:
        """The image of a shrunk photograph."""
        return resize_gray(self.photos[photo.number], photo.size)

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


def _shrunk(photo: PosedPhoto) -> PosedPhoto:
    """The camera of a photograph that is shrunk to a longest side of at most 640 px."""
    scale = min(1.0, _WORKING_SIDE / max(photo.size))
    size = max(1, round(photo.size[0] * scale)), max(1, round(photo.size[1] * scale))
    sx, sy = size[0] / photo.size[0], size[1] / photo.size[1]
    # The center of the first pixel is (0, 0), its corner (-0.5, -0.5).
    to_small = np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])
    return replace(photo, size=size, K=to_small @ photo.K)


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

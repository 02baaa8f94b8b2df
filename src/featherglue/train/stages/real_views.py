"""Photographs of one scene as views of each other, by COLMAP models and depth maps."""

from __future__ import annotations

import numpy as np

from featherglue.data.depth_maps import DepthMaps
from featherglue.data.multiview import count_shared, depth_transfer, read_models
from featherglue.data.photographs import PhotoFolder
from featherglue.data.posed_photo import PosedPhoto
from featherglue.data.real_pairs import MIN_OVERLAP
from featherglue.errors import TrainingError
from featherglue.train.stages.homographic_adaptation import RealView


class RealViews:
    """The real views of the photographs of a folder.

    Args:
        photos: the photographs.
        models: folder of their COLMAP models.
        depths: folder of the depth maps that `featherglue depth` made of `models`.

    Raises:
        MissingExtraError: pycolmap is not installed.
        ImageError: the folder of models does not exist.
        TrainingError: a model cannot be read, or no photograph has a depth map.
    """

    def __init__(self, photos: PhotoFolder, models: str, depths: str) -> None:
        self._photos, self._depths = photos, DepthMaps(depths, photos)
        self._seen_with: dict[int, tuple[PosedPhoto, list[PosedPhoto]]] = {}
        for scene in read_models(models, photos):
            shared = count_shared(scene)
            least = np.minimum.outer(shared.diagonal(), shared.diagonal())
            overlaps = shared / np.maximum(least, 1)
            known = [self._depths.has(photo) for photo in scene]
            for i in np.flatnonzero(known):
                others = [
                    scene[j]
                    for j in np.flatnonzero(known)
                    if j != i and overlaps[i, j] >= MIN_OVERLAP
                ]
                if others:
                    self._seen_with[scene[i].number] = scene[i], others
        if not self._seen_with:
            raise TrainingError(
                f"{depths}: has no depth maps of two photographs that overlap; "
                f"`featherglue depth {photos.folder} {models} -o {depths}` makes them"
            )

    def draw(self, index: int, count: int, rng: np.random.Generator) -> list[RealView]:
        """At most `count` random views of photograph `index`; none if it has no depth map.

        Raises:
            TrainingError: a depth map is damaged.
        """
        if index not in self._seen_with:
            return []
        photo, others = self._seen_with[index]
        views = []
        for i in rng.permutation(len(others))[:count]:
            transfer = depth_transfer(self._depths, photo, others[i])
            if transfer is not None:
                views.append(RealView(photo=self._photos[others[i].number], transfer=transfer))
        return views

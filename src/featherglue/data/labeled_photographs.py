"""A folder of photographs whose keypoint targets are labels from homographic adaptation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from featherglue.data.keypoint_labels import KeypointLabels, RankBy
from featherglue.data.photographs import PhotoCrop, PhotoFolder, Points
from featherglue.errors import TrainingError, counted
from featherglue.io.gray import Gray


class LabeledPhotoFolder(PhotoFolder):
    """A folder of photographs whose keypoint targets are labels instead of corners.

    Args:
        folder: folder of images.
        labels: labels of all photographs of the folder.
        min_rank: minimum rank of a label.
        by: quantities whose product is the rank.
        certain_rank: labels of at least this rank are targets in every training image. Each
            image draws its minimum rank uniformly between `min_rank` and `certain_rank`, so that a
            detector learns a higher score for labels of a higher rank. 0 uses `min_rank` always.

    Raises:
        TrainingError: a photograph has no labels, or no label reaches `min_rank`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        labels: KeypointLabels,
        min_rank: float = 0.0,
        by: Sequence[RankBy] = ("repeatability", "matchability"),
        certain_rank: float = 0.0,
    ) -> None:
        super().__init__(folder)
        self.labels, self.by = labels, tuple(by)
        self.min_rank, self.certain_rank = min_rank, certain_rank
        missing = [name for name in self.names if name not in labels]
        if missing:
            raise TrainingError(
                f"{folder}: no labels of {counted(len(missing), 'photograph')}, such as "
                f"{missing[0]}; resume the homographic adaptation of this folder until it is "
                "complete"
            )
        if not any(len(labels.points(name, self.min_rank, self.by)) for name in self.names):
            raise TrainingError(
                f"{folder}: no label reaches min_rank = {self.min_rank} "
                f"(rank: {' × '.join(self.by)}); lower min_rank"
            )

    @property
    def rank_limits(self) -> tuple[float, float]:
        """Range from which `draw` takes the minimum rank of an image's labels."""
        return self.min_rank, self.certain_rank or self.min_rank

    def ranked_keypoints(self, index: int, image: Gray) -> tuple[Points, NDArray[np.float32]]:
        """The labels of a photograph from `min_rank` up, highest rank first, and their ranks.

        See `PhotoFolder.ranked_keypoints`.
        """
        name, size = self.names[index], (image.shape[1], image.shape[0])
        points = self.labels.points(name, self.min_rank, self.by, size)
        ranks = np.sort(self.labels[name].rank(self.by))[::-1]
        return points, np.ascontiguousarray(ranks[: len(points)])

    def draw(self, rng: np.random.Generator) -> tuple[Gray, PhotoCrop]:
        """A random photograph, mirrored with probability 1/2, with a random minimum rank."""
        photo, crop = super().draw(rng)
        # Raises if the photograph has changed since it was labeled.
        self.labels.points(self.names[crop.index], size=(photo.shape[1], photo.shape[0]))
        low, high = self.min_rank, self.certain_rank
        return photo, replace(crop, min_rank=rng.uniform(low, high) if high else low)

    def keypoints(self, image: Gray, crop: PhotoCrop) -> Points:
        """The labels that lie inside a training image, highest rank first.

        See `PhotoFolder.keypoints`.
        """
        name = self.names[crop.index]
        photo_width, _ = self.labels[name].size
        x, y = self.labels.points(name, crop.min_rank, self.by).T
        x = (photo_width - 1 - x if crop.mirrored else x) - np.float32(crop.left)
        y = y - np.float32(crop.top)
        height, width = image.shape
        inside = (x >= 0) & (y >= 0) & (x <= width - 1) & (y <= height - 1)
        return np.stack((x[inside], y[inside]), 1)

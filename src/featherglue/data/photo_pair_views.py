"""Views of two photographs of one scene with matched keypoints and a teacher's descriptors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from featherglue.data.detector_labels import Sample, points_inside
from featherglue.data.homography import (
    Matrix,
    sample_homography,
    translation_matrix,
    warp_image,
    warp_points,
)
from featherglue.data.photographs import PhotoFolder
from featherglue.data.sample_points import choose_points, padded_rows
from featherglue.data.taught_pairs import TaughtPairs
from featherglue.data.teacher_view_pairs import TeacherViewPairs
from featherglue.data.view_pairs import ViewPairConfig, change_view, points_covered


class PhotoPairViews:
    """An endless dataset of pairs of photographs. Sample `i` depends only on the seed and `i`.

    Each view is a square region around a common point, warped by a homography of the range
    `near`, with changes of appearance. A sample has the entries of `TeacherViewPairs`.

    Args:
        photos: the photographs.
        pairs: pairs of them with common points and the teacher's descriptors there.
        config: settings of the views; `photometric_strength` is the strength of
            `augment_appearance`.
        seed: seed of all random numbers.
        batch_size: number of consecutive samples that show one scene, if `pairs` know the scenes;
            None takes random scenes.
    """

    def __init__(
        self,
        photos: PhotoFolder,
        pairs: TaughtPairs,
        config: ViewPairConfig,
        seed: int = 0,
        batch_size: int | None = None,
    ) -> None:
        self.photos, self.pairs = photos, pairs
        self.config, self.seed, self.batch_size = config, seed, batch_size

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index, 3))
        config = self.config
        scene = None
        if self.batch_size:
            batch = index // self.batch_size
            scene = float(np.random.default_rng((self.seed, batch, 6)).random())
        pair = self.pairs.draw(rng, scene)
        center = int(rng.integers(len(pair.points[0]))) if len(pair.points[0]) else 0
        images, points = [], []
        visible = np.ones(len(pair.points[0]), np.bool_)
        for number, known in zip(pair.numbers, pair.points, strict=True):
            photo = self.photos[number]
            to_view = self._to_view(rng, photo.shape, known[center : center + 1])
            warped = warp_image(photo, to_view, config.size)
            image, covered = change_view(rng, warped, config, strong=True)
            at = warp_points(known, to_view)
            visible &= points_inside(at, config.size, 2) & ~points_covered(at, covered)
            images.append(image)
            points.append(at)
        kept = choose_points(rng, visible, config.max_points)
        sample: Sample = {
            "count": np.asarray(len(kept), np.int64),
            "scene": np.asarray(pair.scene, np.int64),
            "positions": padded_rows(pair.positions[kept], config.max_points),
            "uncertainties": padded_rows(pair.uncertainties[kept, None], config.max_points)[:, 0],
        }
        for view in range(2):
            taught = pair.descriptors[view][kept]
            sample[f"image{view}"] = images[view][None]
            sample[f"points{view}"] = padded_rows(points[view][kept], config.max_points)
            sample[f"teacher{view}"] = padded_rows(taught, config.max_points)
        return sample

    def _to_view(
        self, rng: np.random.Generator, shape: tuple[int, ...], center: NDArray[np.float32]
    ) -> Matrix:
        """A homography (3, 3) from a photograph (H, W) to a view of the region around `center`.

        Args:
            center: (1, 2) xy pixels, or (0, 2) for a region anywhere.
        """
        size, (height, width) = self.config.size, shape[:2]
        side = min(height, width) * rng.uniform(self.config.region, 1.0)
        x, y = rng.uniform(0, width - side), rng.uniform(0, height - side)
        if len(center):
            x, y = np.clip(center[0] - side / 2, 0, (width - side, height - side))
        crop = np.diag([size[0] / side, size[1] / side, 1.0]) @ translation_matrix(-x, -y)
        return sample_homography(rng, size, self.config.near) @ crop


class MixedTeacherPairs:
    """Warped views of one photograph and views of two photographs in random order.

    Sample `i` depends only on the seed and `i`.

    Args:
        warped: views of one photograph.
        real: views of two photographs.
        fraction: fraction of the samples from `real`, in [0, 1].
    """

    def __init__(
        self, warped: TeacherViewPairs, real: PhotoPairViews, fraction: float, seed: int = 0
    ) -> None:
        self.warped, self.real, self.fraction, self.seed = warped, real, fraction, seed

    def __getitem__(self, index: int) -> Sample:
        chosen = np.random.default_rng((self.seed, index, 4)).random() < self.fraction
        return self.real[index] if chosen else self.warped[index]

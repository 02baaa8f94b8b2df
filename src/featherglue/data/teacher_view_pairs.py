"""Pairs of views of one photograph with a teacher's descriptors at the corresponding points."""

from __future__ import annotations

import numpy as np

from featherglue.data.detector_labels import Sample, points_inside
from featherglue.data.feature_files import FeatureFile
from featherglue.data.homography import warp_image, warp_points
from featherglue.data.photographs import PhotoFolder
from featherglue.data.sample_points import choose_points, padded_rows
from featherglue.data.taught_pairs import unknown_places
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs, change_view, points_covered


class TeacherViewPairs(ViewPairs):
    """An endless dataset of view pairs. Sample `i` depends only on the seed and `i`.

    The teacher's features are those of the original photograph. The student gets two warped views
    with strong changes of appearance, so its descriptors become invariant to both.

    A sample holds `image{v}` (1, H, W) uint8 and `points{v}` (P, 2) float32 xy for the views 0 and
    1; `teacher0` and `teacher1` (P, D) float32, the teacher's descriptors of the points, which are
    those of one photograph here; `count`, the number of points before the padding with zeros;
    `scene`, the number of the scene, `positions` (P, 3) and `uncertainties` (P,) float32 of the
    points in it, which are -1 and NaN here, because they are unknown.

    Args:
        photos: the photographs.
        features: the teacher's features of every photograph, by its name.
        config: settings of view pairs; `photometric_strength` is that of `augment_appearance`.
        seed: seed of all random numbers.

    Raises:
        TrainingError: a photograph has no features.
    """

    def __init__(
        self, photos: PhotoFolder, features: FeatureFile, config: ViewPairConfig, seed: int = 0
    ) -> None:
        super().__init__(photos, config, seed)
        self.features = features
        features.check_names(photos.names)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        config = self.config
        chosen = int(rng.integers(len(self.photos)))
        photo, known = self.photos[chosen], self.features[self.photos.names[chosen]]
        to_views = self._draw_homographies(rng, photo.shape[1], photo.shape[0])
        points = [warp_points(known.keypoints, to_view) for to_view in to_views]
        views = [
            change_view(rng, warp_image(photo, to_view, config.size), config, strong=True)
            for to_view in to_views
        ]
        visible = np.ones(len(known.keypoints), np.bool_)
        for at, (_, covered) in zip(points, views, strict=True):
            visible &= points_inside(at, config.size, 2) & ~points_covered(at, covered)
        kept = choose_points(rng, visible, config.max_points)
        taught = padded_rows(known.descriptors[kept], config.max_points)
        positions, uncertainties = unknown_places(config.max_points)
        sample: Sample = {
            "count": np.asarray(len(kept), np.int64),
            "scene": np.asarray(-1, np.int64),
            "positions": positions,
            "uncertainties": uncertainties,
        }
        sample |= {"teacher0": taught, "teacher1": taught}
        for view, (image, _) in enumerate(views):
            sample[f"image{view}"] = image[None]
            sample[f"points{view}"] = padded_rows(points[view][kept], config.max_points)
        return sample

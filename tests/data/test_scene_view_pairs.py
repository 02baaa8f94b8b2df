"""View pairs of 3D scenes: keypoints are visible in both views, and mixing is seeded."""

from __future__ import annotations

import numpy as np

from featherglue.data.detector_labels import NO_KEYPOINT, points_inside
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scene_view_pairs import MixedViewPairs, SceneViewPairs, is_resolved
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig, ViewPairs

SIZE = (96, 80)
SCENES = SceneConfig(size=SIZE, max_planes=3, detail=(0.5, 1.3))
VIEWS = ViewPairConfig(size=SIZE, photometric_strength=0.0, max_points=40)


def test_correspondences_are_labeled_keypoints_of_both_views(photos: PhotoFolder) -> None:
    pairs, total = SceneViewPairs(photos, SCENES, VIEWS), 0
    for index in range(6):
        sample = pairs[index]
        assert "H_0to1" not in sample
        count = int(sample["count"])
        total += count
        for view in "01":
            assert sample[f"image{view}"].shape == (1, 80, 96)
            assert sample[f"inside{view}"].shape == (10, 12)
            points = sample[f"points{view}"][:count]
            assert points_inside(points, SIZE, 2).all()
            column, row = np.rint(points).astype(int).T // 8
            assert (sample[f"labels{view}"][row, column] != NO_KEYPOINT).all()
            assert (sample[f"points{view}"][count:] == 0).all()
    assert total > 60


def test_texture_points_must_be_large_and_frontal() -> None:
    points = np.array([(3, 4), (20, 10)], np.float32)
    for scale, expected in (((1, 1), True), ((0.3, 0.3), True), ((0.2, 0.2), False)):
        assert (is_resolved(points, np.diag([*scale, 1.0])) == expected).all()
    assert is_resolved(points, np.diag([1.3, 0.3, 1.0])).all()
    assert not is_resolved(points, np.diag([2.0, 0.3, 1.0])).any()  # seen under a steep angle


def test_mixed_pairs_have_the_requested_fraction_of_scenes(photos: PhotoFolder) -> None:
    flat, spatial = ViewPairs(photos, VIEWS), SceneViewPairs(photos, SCENES, VIEWS)
    mixed = MixedViewPairs(flat, spatial, fraction=0.4, seed=1)
    images = [mixed[i]["image0"] for i in range(20)]
    from_scenes = [np.array_equal(images[i], spatial[i]["image0"]) for i in range(20)]
    from_photographs = [np.array_equal(images[i], flat[i]["image0"]) for i in range(20)]
    assert from_photographs == [not scene for scene in from_scenes]
    assert 3 < sum(from_scenes) < 14
    np.testing.assert_array_equal(mixed[7]["image0"], images[7])

"""Matches are aligned on the pixels of both images."""

from __future__ import annotations

import numpy as np

from featherglue.collection.match_alignment import align_matches, smoothed


def test_copies_of_a_photograph_are_aligned(photographs: dict[str, np.ndarray]) -> None:
    image = smoothed(photographs["camera"])
    height, width = image.shape
    rng = np.random.default_rng(0)
    points = rng.uniform((30, 30), (width - 30, height - 30), (400, 2)).astype(np.float32)
    patches = np.array(
        [image[y - 8 : y + 9, x - 8 : x + 9].std() for x, y in points.round().astype(int)]
    )
    points = points[patches > 10]
    alignment = align_matches(image, image, points, points)
    assert np.isfinite(alignment).all()
    np.testing.assert_allclose(alignment[:, :4], np.tile([1, 0, 0, 1], (len(points), 1)), atol=0.01)
    assert np.abs(alignment[:, 4:6]).max() < 0.01
    assert (alignment[:, 6] + alignment[:, 7] > 0).all()

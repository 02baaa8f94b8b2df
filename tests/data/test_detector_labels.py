"""Targets of the detector."""

from __future__ import annotations

import numpy as np

from featherglue.data.detector_labels import NO_KEYPOINT, cell_labels, points_inside


def test_points_inside_includes_the_border() -> None:
    points = np.array([(0, 0), (63, 47), (-0.1, 5), (63.1, 5), (np.nan, 5), (2, 45), (1.9, 45)])
    assert points_inside(points, (64, 48)).tolist() == [True, True, False, False, False, True, True]
    assert points_inside(points, (64, 48), 2).tolist() == [
        False,
        False,
        False,
        False,
        False,
        True,
        False,
    ]


def test_cell_labels_equal_brute_force() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 2)) * (80, 60) - 8
    points[0] = 8.49, 3.5
    labels = cell_labels(points, (64, 48))
    assert labels.shape == (6, 8)
    expected = np.full((6, 8), NO_KEYPOINT)
    for x, y in points:
        if 0 <= x <= 63 and 0 <= y <= 47:
            column, row = round(x), round(y)
            cell = row // 8, column // 8
            if expected[cell] == NO_KEYPOINT:  # the first, most important one stays
                expected[cell] = 8 * (row % 8) + column % 8
    np.testing.assert_array_equal(labels, expected)
    assert 5 < (labels != NO_KEYPOINT).sum() < 48
    assert (cell_labels(np.zeros((0, 2)), (16, 8)) == NO_KEYPOINT).all()

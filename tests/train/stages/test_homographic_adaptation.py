"""Homographic adaptation with detectors of known output."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from featherglue.data.homography import HomographyRange
from featherglue.data.keypoint_labels import PhotoLabels
from featherglue.errors import ConfigError
from featherglue.train.stages.homographic_adaptation import (
    Extract,
    LabelConfig,
    RealView,
    _matched,
    _near_detections,
    draw_homographies,
    label_photograph,
    working_size,
)

CONFIG = LabelConfig(homographies=16, threshold=0.2, detection=0.1, batch_size=5)
CENTERS = np.array([(40.0, 36.3), (80.4, 40.0), (120.7, 60.2), (56.0, 84.6), (100.3, 96.0)])
GRAYS = np.array([250, 90, 130, 170, 210])


def photograph(
    centers: np.ndarray = CENTERS, grays: np.ndarray = GRAYS, size: tuple[int, int] = (160, 128)
) -> np.ndarray:
    """Soft dots on black."""
    y, x = np.mgrid[: size[1], : size[0]]
    image = np.zeros(size[::-1])
    for center, gray in zip(centers, grays, strict=True):
        image += gray * np.exp(-((x - center[0]) ** 2 + (y - center[1]) ** 2) / (2 * 2.0**2))
    return image.astype(np.uint8)


def dots(images: Tensor) -> tuple[Tensor, Tensor]:
    """Finds dots; its descriptor is the gray level of the nearest one."""
    highest = F.max_pool2d(images, 9, 1, 4)
    peaks = (images == highest) & (images > 0.2)
    gray = F.max_pool2d(F.max_pool2d(images, 8), 3, 1, 1)[:, 0] * 2.5
    return 0.8 * peaks[:, 0].float(), torch.stack((gray.cos(), gray.sin()), 1)


def run(
    photo: np.ndarray, extract: Extract = dots, config: LabelConfig = CONFIG, seed: int = 0
) -> PhotoLabels:
    return label_photograph(extract, photo, config, np.random.default_rng(seed))


def nearest(labels: PhotoLabels, centers: np.ndarray = CENTERS) -> np.ndarray:
    """For each center its label, all of them different."""
    gaps = np.linalg.norm(centers[:, None] - labels.points, axis=2)
    own = gaps.argmin(1)
    assert len(set(own)) == len(centers)
    return np.asarray(own)


def test_labels_lie_at_detections() -> None:
    labels = run(photograph())
    assert len(labels) == len(CENTERS)
    assert labels.size == (160, 128)
    own = nearest(labels)
    errors = np.linalg.norm(labels.points[own] - CENTERS, axis=1)
    assert errors.max() < 0.6
    assert errors.mean() < 0.25  # whole pixels would give 0.36
    assert (labels.scores > 0.4).all()
    assert (np.diff(labels.scores) <= 0).all()
    assert (labels.covered > 5).all()
    assert (labels.covered <= 15).all()  # the photograph itself is no witness
    assert (labels.repeatability > 0.95).all()
    assert (labels.matchability > 0.8).all()


def test_detections_that_do_not_move_with_the_photograph_are_dropped() -> None:
    def fixed(images: Tensor) -> tuple[Tensor, Tensor]:
        scores, descriptors = dots(images)
        scores[:, 20, 100] = 0.8  # dirt on the lens
        return scores, descriptors

    place = np.array([(100.0, 20.0)])
    once = run(photograph(), fixed, LabelConfig(homographies=1, threshold=0.2))
    assert np.linalg.norm(once.points - place, axis=1).min() < 0.6
    assert (once.covered == 0).all()
    assert (once.repeatability == 0).all()
    often = run(photograph(), fixed)
    assert np.linalg.norm(often.points - place, axis=1).min() > 4


def test_each_point_counts_the_views_that_cover_it() -> None:
    centers = np.array([(14.0, 14.0), (80.0, 64.0)])
    shifts = LabelConfig(
        homographies=24,
        threshold=0.2,
        views=HomographyRange(rotation=0, scale=1, anisotropy=1, perspective=0, translation=0.3),
    )
    labels = run(photograph(centers, np.array([200, 200])), config=shifts)
    corner, center = nearest(labels, centers)
    assert 3 <= labels.covered[corner] < 0.6 * labels.covered[center]
    assert labels.covered[center] == 23
    # Found in every view that shows it, it has the same score.
    np.testing.assert_allclose(labels.scores[corner], labels.scores[center], rtol=0.25)
    assert labels.found[corner] == labels.covered[corner]


def test_repeatability_is_the_ratio_of_detecting_views() -> None:
    calls = []

    def forgetful(images: Tensor) -> tuple[Tensor, Tensor]:
        """Sees the brightest dot in each view, the others in the first five views only."""
        scores, descriptors = dots(images)
        calls.append(len(images))
        if len(calls) > 1:
            scores[images[:, 0] < 0.9] = 0
        return scores, descriptors

    photo = photograph(grays=np.array([255, 90, 130, 170, 200]))
    config = LabelConfig(homographies=15, threshold=0.05, detection=0.1, batch_size=5)
    labels = run(photo, forgetful, config)
    assert calls == [5, 5, 5]
    own = nearest(labels)
    assert (labels.found[own][1:] <= 4).all()
    assert (labels.repeatability[own][1:] < 0.6).all()
    assert labels.found[own][0] > 5


def test_equal_descriptors_lower_matchability() -> None:
    grays = np.array([250, 90, 150, 150, 210])  # two are equal
    labels = run(photograph(grays=grays))
    own = nearest(labels)
    equal, others = labels.matchability[own][2:4], labels.matchability[own][[0, 1, 4]]
    assert equal.sum() < 1.3
    assert (others > 0.8).all()
    assert (labels.repeatability > 0.95).all()  # all labels are found again


def test_only_labels_in_view_compete() -> None:
    reference = torch.eye(2)  # two labels
    sampled = torch.tensor([[0.6, 0.8], [0.6, 0.8]])  # a view in which both look like the second
    seen = np.ones(2, np.bool_)
    assert _matched(reference, reference, seen).tolist() == [True, True]
    assert _matched(sampled, reference, seen).tolist() == [False, True]
    seen[1] = False
    assert _matched(sampled, reference, seen)[0]
    assert not _matched(sampled, reference, np.zeros(2, np.bool_)).any()


class Shift:
    """The transfer to a photograph that shows everything 24 px further to the right."""

    def __call__(self, points: np.ndarray) -> np.ndarray:
        moved = points + np.array([24.0, 0.0])
        moved[points[:, 1] < 38] = np.nan  # no depth at the first dot
        moved[points[:, 0] > 110] = np.inf  # the third one is hidden
        return moved.astype(np.float32)

    def swapped(self) -> Shift:
        raise NotImplementedError


def test_real_views_count_like_warped_ones() -> None:
    photo = photograph()
    other = np.roll(photo, 24, 1)
    other[80:90, 70:90] = 0  # the fourth dot, which is near (80, 85), is missing
    view = RealView(photo=other, transfer=Shift())
    alone = run(photo)
    labels = label_photograph(dots, photo, CONFIG, np.random.default_rng(0), "cpu", [view, view])
    np.testing.assert_array_equal(labels.points, alone.points)
    own = nearest(labels)
    for name, more in (
        ("covered", [0, 2, 0, 2, 2]),
        ("found", [0, 2, 0, 0, 2]),
        ("matched", [0, 2, 0, 0, 2]),
    ):
        added = getattr(labels, name)[own].astype(int) - getattr(alone, name)[own]
        assert added.tolist() == more, name


def test_a_detection_is_a_maximum() -> None:
    y, x = np.mgrid[:40, :60]
    hill = (0.9 - 0.02 * np.hypot(x - 20, y - 15)).astype(np.float32)
    around = _near_detections(hill, LabelConfig(near=3, detection=0.1)) > 0
    np.testing.assert_array_equal(around, np.hypot(x - 20, y - 15) <= 3)
    assert not _near_detections(hill, LabelConfig(detection=0.95)).any()


def test_labels_are_in_pixels_of_the_photograph() -> None:
    large = photograph(CENTERS * 3 + 1, GRAYS, (484, 380))
    large = cv2.GaussianBlur(large, (0, 0), 4)
    large = (large * (250 / large.max())).astype(np.uint8)
    config = LabelConfig(homographies=8, threshold=0.1, detection=0.1, longest=160)
    labels = run(large, config=config)
    assert labels.size == (484, 380)
    own = nearest(labels, CENTERS * 3 + 1)
    np.testing.assert_allclose(labels.points[own], CENTERS * 3 + 1, atol=2.0)
    assert working_size((484, 380), 160) == (160, 128)
    assert working_size((100, 69), 320) == (96, 72)  # never enlarged by much
    assert working_size((1000, 20), 320) == (320, 8)


def test_strongest_labels_are_kept_and_there_may_be_none() -> None:
    few = run(photograph(), config=LabelConfig(homographies=4, threshold=0.2, max_labels=2))
    assert len(few) == 2
    none = run(np.zeros((72, 64), np.uint8))
    assert none.points.shape == (0, 2)
    assert none.points.dtype == np.float32
    assert none.covered.shape == none.matched.shape == (0,)
    assert none.covered.dtype == np.uint16


def test_labels_depend_only_on_the_seed() -> None:
    photo = photograph()
    lit = LabelConfig(homographies=6, threshold=0.1, photometric_strength=1.0)
    first, same, other = run(photo, config=lit), run(photo, config=lit), run(photo, seed=1)
    np.testing.assert_array_equal(first.points, same.points)
    np.testing.assert_array_equal(first.scores, same.scores)
    assert len(other) != len(first) or (other.scores != first.scores).any()


def test_homographies_show_the_photograph() -> None:
    rng = np.random.default_rng(0)
    drawn = draw_homographies(rng, (160, 128), LabelConfig(homographies=30))
    assert len(drawn) == 30
    np.testing.assert_array_equal(drawn[0], np.eye(3))
    corners = np.array([(x, y, 1) for x in (0, 159) for y in (0, 127)])
    assert all((corners @ H[2] > 0.2).all() for H in drawn)
    wild = LabelConfig(homographies=30, views=HomographyRange(perspective=1000))
    with pytest.raises(ConfigError, match="reduce it"):
        draw_homographies(rng, (160, 128), wild)


@pytest.mark.parametrize("name", ["homographies", "max_labels", "batch_size", "longest", "near"])
def test_invalid_settings_are_rejected(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        LabelConfig(**{name: -1})  # type: ignore[arg-type]

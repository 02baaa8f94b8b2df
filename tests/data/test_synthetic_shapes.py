"""Synthetic shapes: exact, visible corners and documented samples."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from featherglue.data.detector_labels import cell_labels, points_inside
from featherglue.data.shape_drawing import KINDS, Canvas
from featherglue.data.synthetic_shapes import (
    ShapesConfig,
    SyntheticShapes,
    corner_response,
    draw_shapes,
)
from featherglue.errors import ConfigError

SIZE = (160, 120)
CORNERED = sorted(set(KINDS) - {"ellipses", "noise"})


def square(x: float, y: float, side: float) -> np.ndarray:
    return np.array([(x, y), (x + side, y), (x + side, y + side), (x, y + side)])


def blank(size: tuple[int, int] = (96, 80)) -> Canvas:
    """A canvas with a black background."""
    canvas = Canvas(np.random.default_rng(0), size)
    canvas.fill(square(-9, -9, 200), 0)
    canvas._outlines[:] = 0
    return canvas


def add(canvas: Canvas, corners: np.ndarray, gray: float = 200) -> None:
    canvas.start_shape(corners)
    canvas.fill(corners, gray)


def pictures(kind: str, count: int, contrast: float = 12) -> list[tuple[np.ndarray, np.ndarray]]:
    return [draw_shapes(np.random.default_rng(i), kind, SIZE, contrast) for i in range(count)]


# --- positions of corners --------------------------------------------------------------------


def test_a_square_is_drawn_at_its_corners() -> None:
    canvas = blank()
    add(canvas, square(20.3, 15.6, 30))
    image, points = canvas.finish()
    light = image / 200.0
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    center = (light * x).sum() / light.sum(), (light * y).sum() / light.sum()
    np.testing.assert_allclose(center, (35.3, 30.6), atol=0.15)
    assert abs(np.sqrt(light.sum()) - 30) < 0.3
    np.testing.assert_allclose(points, square(20.3, 15.6, 30))


def test_corners_of_checkerboards_are_saddle_points() -> None:
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 40, 0.001)
    moved = []
    for index in range(12):
        rng = np.random.default_rng(index)
        image, points = draw_shapes(rng, "checkerboard", (320, 240), 60)
        if len(points) < 9:
            continue
        gaps = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(len(points))
        # Within the board: four neighbors of about the same distance, none near the edges.
        near = np.sort(gaps, axis=1)[:, :4]
        inner = (
            (near[:, 3] < 2 * near[:, 0]) & (near[:, 0] > 12) & points_inside(points, (320, 240), 8)
        )
        if not inner.any():
            continue
        start = points[inner].astype(np.float32)
        exact = cv2.cornerSubPix(image, start[:, None].copy(), (3, 3), (-1, -1), criteria)
        moved.append(np.linalg.norm(exact[:, 0] - start, axis=1))
    found = np.concatenate(moved)
    assert len(found) > 30
    assert np.median(found) < 0.15
    assert np.percentile(found, 90) < 0.4


@pytest.mark.parametrize("kind", CORNERED)
def test_corners_have_a_high_response(kind: str) -> None:
    own, elsewhere = [], []
    rng = np.random.default_rng(0)
    for image, points in pictures(kind, 15):
        assert points_inside(points, SIZE).all()
        own.append(corner_response(image, points))
        assert (np.diff(own[-1]) <= 0).all()  # highest response first
        elsewhere.append(corner_response(image, rng.random((100, 2)) * (159, 119)))
    assert len(np.concatenate(own)) > 15
    assert np.concatenate(own).min() >= 0.25 * 12**2
    assert np.median(np.concatenate(own)) > 10 * np.median(np.concatenate(elsewhere))


def test_all_strong_corners_of_polygons_are_labeled() -> None:
    """Outlines do not cross, so there are no strong corners without labels."""
    for image, points in pictures("polygons", 12):
        found = cv2.goodFeaturesToTrack(image, 200, 0.2, 5)
        for corner in found.reshape(-1, 2):
            if points_inside(corner[None], SIZE, 6)[0]:
                assert np.linalg.norm(points - corner, axis=1).min() < 3


@pytest.mark.parametrize("kind", ["ellipses", "noise"])
def test_kinds_without_corners(kind: str) -> None:
    for image, points in pictures(kind, 8):
        assert len(points) == 0
        assert image.std() > 1


def test_a_cube_shows_seven_corners() -> None:
    counts = [len(points) for _, points in pictures("cube", 40, contrast=0)]
    assert max(counts) == 7
    assert counts.count(7) > 8


# --- hidden and faint corners ----------------------------------------------------------------


def test_hidden_corners_are_dropped() -> None:
    canvas = blank()
    hidden, top, other = square(30, 30, 10), square(20, 20, 40), square(70, 10, 12)
    add(canvas, hidden)
    add(canvas, other)
    assert len(canvas.finish()[1]) == 8
    add(canvas, top, 90)
    np.testing.assert_allclose(canvas.finish()[1], np.concatenate((other, top)))
    add(canvas, hidden)
    np.testing.assert_allclose(canvas.finish()[1], np.concatenate((other, top, hidden)))
    canvas = blank()
    add(canvas, other)
    add(canvas, square(64, 20, 30), 90)  # over the lower half
    np.testing.assert_allclose(canvas.finish()[1][:2], other[:2])
    assert len(canvas.finish()[1]) == 6


def test_outlines_keep_a_minimum_gap() -> None:
    canvas = blank()
    add(canvas, square(20, 20, 30))
    assert canvas.is_free(square(30, 30, 10))
    assert canvas.is_free(square(5, 5, 60))
    assert canvas.is_free(square(60, 20, 20))
    assert not canvas.is_free(square(40, 40, 30))
    assert not canvas.is_free(square(51, 20, 20))


def test_corners_without_contrast_are_dropped() -> None:
    image = np.full((40, 40), 50, np.uint8)
    image[20:, 20:] = 80
    response = corner_response(image, np.array([(19.5, 19.5), (10.0, 10.0), (19.5, 30.0)]))
    np.testing.assert_allclose(response[0], 0.25 * 30**2, rtol=0.05)
    assert response[1:].max() < 1  # neither an area nor an edge
    counts = [
        sum(len(points) for _, points in pictures("polygons", 8, contrast))
        for contrast in (0, 20, 80, 300)
    ]
    assert counts[0] > counts[1] > counts[2] > counts[3] == 0


# --- samples --------------------------------------------------------------------------------


def test_shapes_and_dtypes_of_a_sample() -> None:
    config = ShapesConfig(size=(96, 80), max_points=20)
    shapes, counts = SyntheticShapes(config, seed=1), []
    for index in range(30):
        item = shapes[index]
        assert item["image0"].shape == (1, 80, 96)
        assert item["image0"].dtype == np.uint8
        assert item["labels0"].dtype == np.int64
        assert item["inside0"].shape == item["labels0"].shape == (10, 12)
        assert item["inside0"].dtype == np.bool_
        assert item["inside0"].all()
        assert item["points0"].shape == (20, 2)
        assert item["points0"].dtype == np.float32
        counts.append(int(item["count"]))
        points = item["points0"][: counts[-1]]
        expected = cell_labels(points.astype(float), (96, 80))
        np.testing.assert_array_equal(item["labels0"], expected)
        assert (item["points0"][counts[-1] :] == 0).all()
    assert min(counts) == 0
    assert max(counts) == 20


def test_samples_depend_only_on_seed_and_index() -> None:
    config = ShapesConfig(size=(64, 48))
    first, second = SyntheticShapes(config, seed=3), SyntheticShapes(config, seed=3)
    for index in (5, 0, 5):
        a, b = first[index], second[index]
        for key, value in a.items():
            np.testing.assert_array_equal(value, b[key])
    for other in (first[6], SyntheticShapes(config, seed=4)[5]):
        assert (other["image0"] != first[5]["image0"]).any()


def test_kinds_can_be_chosen() -> None:
    config = ShapesConfig(size=(64, 48), kinds=("ellipses",))
    assert all(SyntheticShapes(config)[i]["count"] == 0 for i in range(5))
    config = ShapesConfig(size=(64, 48), kinds=("checkerboard",))
    assert all(SyntheticShapes(config)[i]["count"] > 0 for i in range(5))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ("circle",)}, "kinds must be some of lines"),
        ({"kinds": ()}, "kinds must be some of"),
        ({"size": (60, 64)}, "multiples of 8"),
        ({"max_points": 0}, "max_points"),
        ({"contrast": -1.0}, "contrast"),
    ],
)
def test_invalid_settings_raise(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ShapesConfig(**values)  # type: ignore[arg-type]

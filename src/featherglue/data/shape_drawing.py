"""Random drawings of lines, polygons, stars, boards, boxes and ellipses with exact corners.

Points are (x, y) pixels of the finished image; the center of its top-left pixel is (0, 0).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import HomographyRange, sample_homography, warp_points
from featherglue.io.gray import Gray

Points = NDArray[np.float64]
_SUPERSAMPLING = 6  # images are drawn at this multiple of their size, then averaged
_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates
_MIN_GAP = 3.0  # pixels between the outlines of two shapes
_MIN_CONTRAST = 25  # gray levels between adjacent areas
_BOARD_RANGE = HomographyRange(
    rotation=180, scale=1.3, anisotropy=1.3, perspective=0.35, translation=0.15
)


class Canvas:
    """An image being drawn: a smooth random background, shapes on top, and their corners.

    Attributes:
        size: (width, height), pixels.
        background: mean gray level of the background.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.size, self.background = size, float(rng.uniform(20, 235))
        shape = size[1] * _SUPERSAMPLING, size[0] * _SUPERSAMPLING
        coarse = rng.uniform(-1, 1, rng.integers(2, 7, 2)) * rng.uniform(0, 40)
        smooth = cv2.resize(coarse + self.background, shape[::-1], interpolation=cv2.INTER_CUBIC)
        self._image: Gray = np.clip(smooth, 0, 255).astype(np.uint8)
        self._shapes: Gray = np.zeros(shape, np.uint8)  # number of the topmost shape, 0 for none
        self._outlines: Gray = np.zeros(shape, np.uint8)
        self._corners: list[Points] = []

    def start_shape(self, corners: Points) -> None:
        """Begin a shape with these corners (N, 2); `fill` then draws parts of it."""
        self._corners.append(corners)

    def fill(self, polygon: Points, gray: float) -> None:
        """Fill a polygon (M, 2) of the current shape."""
        fixed = _fixed_point(polygon)
        cv2.fillPoly(self._image, [fixed], round(gray), cv2.LINE_8, _FRACTION_BITS)
        cv2.fillPoly(self._shapes, [fixed], len(self._corners), cv2.LINE_8, _FRACTION_BITS)
        cv2.polylines(self._outlines, [fixed], True, 1, 1, cv2.LINE_8, _FRACTION_BITS)

    def is_free(self, polygon: Points) -> bool:
        """Whether the outline of a polygon (M, 2) keeps the minimum gap to all other outlines.

        The polygon may lie inside another shape, or cover one completely.
        """
        band = np.zeros_like(self._outlines)
        thickness = round(2 * _MIN_GAP * _SUPERSAMPLING)
        fixed = _fixed_point(polygon)
        cv2.polylines(band, [fixed], True, 1, thickness, cv2.LINE_8, _FRACTION_BITS)
        return not cv2.bitwise_and(band, self._outlines).any()

    def fill_with_noise(self, rng: np.random.Generator) -> None:
        """Cover the whole image with Gaussian noise of a random grain size."""
        width, height = (np.array(self.size) / rng.choice([1, 1, 2, 3])).astype(int)
        spread = rng.uniform(10, 60)
        grain = (self.background + spread * rng.standard_normal((height, width))).astype(np.float32)
        shape = self._image.shape[::-1]
        enlarged = cv2.resize(grain, shape, interpolation=cv2.INTER_LINEAR)
        self._image = np.clip(enlarged, 0, 255).astype(np.uint8)

    def finish(self) -> tuple[Gray, Points]:
        """The image (H, W) uint8, and the corners (N, 2) that no later shape hides."""
        small = cv2.resize(self._image, self.size, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.uint8)
        visible = [np.zeros((0, 2))]
        reach = range(-_SUPERSAMPLING // 2, _SUPERSAMPLING // 2 + 1)
        height, width = self._shapes.shape
        for number, corners in enumerate(self._corners, start=1):
            x, y = np.rint((corners + 0.5) * _SUPERSAMPLING - 0.5).astype(np.int64).T
            shown = np.zeros(len(corners), np.bool_)
            for dy in reach:
                for dx in reach:
                    row, column = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)
                    shown |= self._shapes[row, column] == number
            visible.append(corners[shown])
        return image, np.concatenate(visible)


def _fixed_point(polygon: Points) -> NDArray[np.int32]:
    """Image coordinates as OpenCV's fixed-point coordinates in the supersampled image."""
    fine = (polygon + 0.5) * _SUPERSAMPLING - 0.5
    return np.asarray(np.rint(fine * 2**_FRACTION_BITS), np.int32)


def _other_gray(rng: np.random.Generator, *grays: float) -> float:
    """A random gray level that contrasts with all of `grays`."""
    for _ in range(50):
        gray = float(rng.uniform(0, 255))
        if all(abs(gray - g) >= _MIN_CONTRAST for g in grays):
            return gray
    return 255.0 if np.mean(grays) < 128 else 0.0


def _side(canvas: Canvas) -> float:
    """The shorter side of the image, pixels."""
    return float(min(canvas.size))


def _place(rng: np.random.Generator, canvas: Canvas) -> Points:
    """A random position, up to 5 % outside of the image."""
    return np.asarray(rng.uniform(-0.05, 1.05, 2) * canvas.size)


def _bar(start: Points, end: Points, thickness: float) -> Points:
    """The corners (4, 2) of a line of some thickness."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]]) * thickness / 2
    return np.stack((start + across, end + across, end - across, start - across))


def lines(rng: np.random.Generator, canvas: Canvas) -> None:
    """Up to eight lines that do not cross; corners are their end points."""
    for _ in range(rng.integers(1, 9)):
        start, end = _place(rng, canvas), _place(rng, canvas)
        if np.linalg.norm(end - start) < 0.15 * _side(canvas):
            continue
        bar = _bar(start, end, rng.uniform(1, 0.03 * _side(canvas)))
        if canvas.is_free(bar):
            canvas.start_shape(np.stack((start, end)))
            canvas.fill(bar, _other_gray(rng, canvas.background))


def _random_polygon(rng: np.random.Generator, center: Points, radius: float) -> Points:
    """A polygon (M, 2) around a center without angles above 150°."""
    count = int(rng.integers(3, 9))
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    radii = radius * rng.uniform(0.4, 1, count)
    polygon = center + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
    while len(polygon) > 3:
        before, after = np.roll(polygon, 1, 0) - polygon, np.roll(polygon, -1, 0) - polygon
        lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
        cosine = (before * after).sum(1) / lengths
        flattest = int(cosine.argmin())
        if cosine[flattest] > np.cos(np.deg2rad(150)):
            break
        polygon = np.delete(polygon, flattest, 0)
    return np.asarray(polygon)


def polygon(rng: np.random.Generator, canvas: Canvas) -> None:
    """One large polygon."""
    corners = _random_polygon(rng, _place(rng, canvas), rng.uniform(0.3, 0.6) * _side(canvas))
    canvas.start_shape(corners)
    canvas.fill(corners, _other_gray(rng, canvas.background))


def polygons(rng: np.random.Generator, canvas: Canvas) -> None:
    """Several polygons beside, inside and on top of each other."""
    used = [canvas.background]
    for _ in range(rng.integers(4, 20)):
        radius = rng.uniform(0.06, 0.4) * _side(canvas)
        corners = _random_polygon(rng, _place(rng, canvas), radius)
        if canvas.is_free(corners):
            canvas.start_shape(corners)
            used.append(_other_gray(rng, *used[:1], *used[-2:]))
            canvas.fill(corners, used[-1])


def ellipses(rng: np.random.Generator, canvas: Canvas) -> None:
    """Several ellipses, without corners."""
    angles = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1)
    used = [canvas.background]
    for _ in range(rng.integers(3, 20)):
        axes = rng.uniform(0.04, 0.35) * _side(canvas) * np.array([1, rng.uniform(0.4, 1)])
        angle = rng.uniform(0, np.pi)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        outline = _place(rng, canvas) + circle * axes @ rotation.T
        if canvas.is_free(outline):
            canvas.start_shape(np.zeros((0, 2)))
            used.append(_other_gray(rng, *used[:1], *used[-2:]))
            canvas.fill(outline, used[-1])


def star(rng: np.random.Generator, canvas: Canvas) -> None:
    """Three to six rays; corners are the center and the end points of the rays."""
    count = int(rng.integers(3, 7))
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (
        (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    )
    lengths = rng.uniform(0.2, 0.7, count) * _side(canvas)
    center = rng.uniform(0.2, 0.8, 2) * canvas.size
    ends = center + lengths[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
    gray, thickness = _other_gray(rng, canvas.background), rng.uniform(1, 0.03 * _side(canvas))
    canvas.start_shape(np.concatenate((center[None], ends)))
    for end in ends:
        canvas.fill(_bar(center, end, thickness), gray)


def _board(rng: np.random.Generator, canvas: Canvas, across: Points, down: Points) -> None:
    """Draw a grid of alternating gray levels in perspective; its nodes are the corners.

    Args:
        across, down: x of the vertical and y of the horizontal grid lines, as fractions of the
            image's sides before the perspective.
    """
    grid = np.stack(np.meshgrid(across, down), -1).reshape(-1, 2) * canvas.size
    nodes = np.full_like(grid, np.nan)
    while not np.isfinite(nodes).all():
        nodes = warp_points(grid, sample_homography(rng, canvas.size, _BOARD_RANGE))
    canvas.start_shape(nodes)
    corners = nodes.reshape(len(down), len(across), 2)
    even = _other_gray(rng, canvas.background)
    odd = _other_gray(rng, canvas.background, even)
    jitter = rng.uniform(0, 8)
    for i in range(len(down) - 1):
        for j in range(len(across) - 1):
            cell = corners[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            gray = (odd if (i + j) % 2 else even) + rng.uniform(-1, 1) * jitter
            canvas.fill(cell, float(np.clip(gray, 0, 255)))


def checkerboard(rng: np.random.Generator, canvas: Canvas) -> None:
    """A checkerboard in perspective."""
    columns, rows = rng.integers(3, 10, 2)
    left, top = rng.uniform(-0.1, 0.25, 2)
    width, height = rng.uniform(0.5, 1, 2)
    across = left + np.linspace(0, width, columns + 1)
    _board(rng, canvas, across, top + np.linspace(0, height, rows + 1))


def stripes(rng: np.random.Generator, canvas: Canvas) -> None:
    """Stripes of varying width in perspective."""
    widths = rng.uniform(0.05, 0.2, rng.integers(4, 11))
    across = rng.uniform(-0.1, 0.2) + np.concatenate(([0.0], np.cumsum(widths)))
    top, height = rng.uniform(-0.1, 0.4), rng.uniform(0.3, 0.8)
    _board(rng, canvas, across, np.array([top, top + height]))


def cube(rng: np.random.Generator, canvas: Canvas) -> None:
    """A box whose visible faces differ in gray; corners are those of the visible faces."""
    unit = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    box = unit * rng.uniform(0.15, 0.35, 3) * _side(canvas) @ rotation.T
    flat = box[:, :2] + rng.uniform(0.2, 0.8, 2) * canvas.size
    grays, visible = [canvas.background], np.zeros(8, np.bool_)
    faces = []
    for axis in range(3):
        sign = -1 if rotation[2, axis] > 0 else 1  # the camera looks along z
        face = np.flatnonzero(unit[:, axis] == sign)[[0, 1, 3, 2]]
        visible[face] = True
        faces.append(face)
    canvas.start_shape(flat[visible])
    for face in faces:
        grays.append(_other_gray(rng, *grays))
        canvas.fill(flat[face], grays[-1])


def noise(rng: np.random.Generator, canvas: Canvas) -> None:
    """Gaussian noise without corners."""
    canvas.fill_with_noise(rng)


KINDS: dict[str, Callable[[np.random.Generator, Canvas], None]] = {
    draw.__name__: draw
    for draw in (
        lines,
        polygon,
        polygons,
        ellipses,
        star,
        checkerboard,
        stripes,
        cube,
        noise,
    )
}

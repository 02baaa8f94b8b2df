"""Drawing of lines, polygons, stars, boards, cubes and ellipses whose corners are known exactly.

Points are xy pixels of the finished picture, the centre of its top-left pixel at (0, 0).
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.homography import HomographyRange, sample_homography, warp_points

Grey = NDArray[np.uint8]
Points = NDArray[np.float64]
_FINE = 6  # pictures are drawn at this multiple of their size and averaged
_BITS = 4  # of a fraction of a fine pixel
_GAP = 3.0  # pixels between the outlines of two shapes
_LEAST = 25  # grey levels between neighbouring areas
_BOARDS = HomographyRange(
    rotation=180, scale=1.3, anisotropy=1.3, perspective=0.35, translation=0.15
)


class Canvas:
    """A picture in the making: a soft random background, shapes upon each other, their corners.

    Attributes:
        size: (width, height). ground: mean grey level of the background.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]) -> None:
        self.size, self.ground = size, float(rng.uniform(20, 235))
        shape = size[1] * _FINE, size[0] * _FINE
        coarse = rng.uniform(-1, 1, rng.integers(2, 7, 2)) * rng.uniform(0, 40)
        smooth = cv2.resize(coarse + self.ground, shape[::-1], interpolation=cv2.INTER_CUBIC)
        self._fine: Grey = np.clip(smooth, 0, 255).astype(np.uint8)
        self._shapes: Grey = np.zeros(shape, np.uint8)  # which shape a pixel shows, 0 for none
        self._outlines: Grey = np.zeros(shape, np.uint8)
        self._points: list[Points] = []

    def start_shape(self, points: Points) -> None:
        """What is filled from now on is a shape with these corners (N, 2)."""
        self._points.append(points)

    def fill(self, polygon: Points, grey: float) -> None:
        """Fill a polygon (M, 2) of the current shape."""
        fixed = self._fixed(polygon)
        cv2.fillPoly(self._fine, [fixed], round(grey), cv2.LINE_8, _BITS)
        cv2.fillPoly(self._shapes, [fixed], len(self._points), cv2.LINE_8, _BITS)
        cv2.polylines(self._outlines, [fixed], True, 1, 1, cv2.LINE_8, _BITS)

    def is_free(self, polygon: Points) -> bool:
        """Whether the outline of a polygon (M, 2) keeps its distance from all others.

        The polygon may lie within another shape, or hide it altogether.
        """
        band = np.zeros_like(self._outlines)
        thickness = round(2 * _GAP * _FINE)
        cv2.polylines(band, [self._fixed(polygon)], True, 1, thickness, cv2.LINE_8, _BITS)
        return not cv2.bitwise_and(band, self._outlines).any()

    def noise(self, rng: np.random.Generator) -> None:
        """Cover everything with noise of a random grain."""
        width, height = (np.array(self.size) / rng.choice([1, 1, 2, 3])).astype(int)
        spread = rng.uniform(10, 60)
        grain = (self.ground + spread * rng.standard_normal((height, width))).astype(np.float32)
        shape = self._fine.shape[::-1]
        grown = cv2.resize(grain, shape, interpolation=cv2.INTER_LINEAR)
        self._fine = np.clip(grown, 0, 255).astype(np.uint8)

    def finish(self) -> tuple[Grey, Points]:
        """The picture (H, W) and all corners (N, 2) that no later shape hides."""
        small = cv2.resize(self._fine, self.size, interpolation=cv2.INTER_AREA)
        image = np.asarray(small, np.uint8)
        visible = [np.zeros((0, 2))]
        reach = range(-_FINE // 2, _FINE // 2 + 1)
        height, width = self._shapes.shape
        for number, points in enumerate(self._points, start=1):
            x, y = np.rint((points + 0.5) * _FINE - 0.5).astype(np.int64).T
            shown = np.zeros(len(points), np.bool_)
            for dy in reach:
                for dx in reach:
                    row, column = np.clip(y + dy, 0, height - 1), np.clip(x + dx, 0, width - 1)
                    shown |= self._shapes[row, column] == number
            visible.append(points[shown])
        return image, np.concatenate(visible)

    def _fixed(self, polygon: Points) -> NDArray[np.int32]:
        fine = (polygon + 0.5) * _FINE - 0.5
        return np.asarray(np.rint(fine * 2**_BITS), np.int32)


def _other_grey(rng: np.random.Generator, *greys: float) -> float:
    """A grey level that can be told from these."""
    for _ in range(50):
        grey = float(rng.uniform(0, 255))
        if all(abs(grey - g) >= _LEAST for g in greys):
            return grey
    return 255.0 if np.mean(greys) < 128 else 0.0


def _side(canvas: Canvas) -> float:
    return float(min(canvas.size))


def _place(rng: np.random.Generator, canvas: Canvas) -> Points:
    """A random position, sometimes a little outside."""
    return np.asarray(rng.uniform(-0.05, 1.05, 2) * canvas.size)


def _bar(start: Points, end: Points, thickness: float) -> Points:
    """The rectangle (4, 2) of a line."""
    along = (end - start) / np.linalg.norm(end - start)
    across = np.array([-along[1], along[0]]) * thickness / 2
    return np.stack((start + across, end + across, end - across, start - across))


def lines(rng: np.random.Generator, canvas: Canvas) -> None:
    """One to eight lines that do not cross; their ends."""
    for _ in range(rng.integers(1, 9)):
        start, end = _place(rng, canvas), _place(rng, canvas)
        if np.linalg.norm(end - start) < 0.15 * _side(canvas):
            continue
        bar = _bar(start, end, rng.uniform(1, 0.03 * _side(canvas)))
        if canvas.is_free(bar):
            canvas.start_shape(np.stack((start, end)))
            canvas.fill(bar, _other_grey(rng, canvas.ground))


def _random_polygon(rng: np.random.Generator, centre: Points, radius: float) -> Points:
    """A polygon (M, 2) around a centre, none of its angles flat."""
    count = int(rng.integers(3, 9))
    angles = 2 * np.pi * (np.arange(count) + rng.uniform(-0.35, 0.35, count)) / count
    radii = radius * rng.uniform(0.4, 1, count)
    polygon = centre + radii[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
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
    """A large polygon; its corners."""
    corners = _random_polygon(rng, _place(rng, canvas), rng.uniform(0.3, 0.6) * _side(canvas))
    canvas.start_shape(corners)
    canvas.fill(corners, _other_grey(rng, canvas.ground))


def polygons(rng: np.random.Generator, canvas: Canvas) -> None:
    """Several polygons beside, within and upon each other; their corners."""
    used = [canvas.ground]
    for _ in range(rng.integers(4, 20)):
        radius = rng.uniform(0.06, 0.4) * _side(canvas)
        corners = _random_polygon(rng, _place(rng, canvas), radius)
        if canvas.is_free(corners):
            canvas.start_shape(corners)
            used.append(_other_grey(rng, *used[:1], *used[-2:]))
            canvas.fill(corners, used[-1])


def ellipses(rng: np.random.Generator, canvas: Canvas) -> None:
    """Several ellipses, which have no corners."""
    turn = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    circle = np.stack((np.cos(turn), np.sin(turn)), 1)
    used = [canvas.ground]
    for _ in range(rng.integers(3, 20)):
        axes = rng.uniform(0.04, 0.35) * _side(canvas) * np.array([1, rng.uniform(0.4, 1)])
        angle = rng.uniform(0, np.pi)
        rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        outline = _place(rng, canvas) + circle * axes @ rotation.T
        if canvas.is_free(outline):
            canvas.start_shape(np.zeros((0, 2)))
            used.append(_other_grey(rng, *used[:1], *used[-2:]))
            canvas.fill(outline, used[-1])


def star(rng: np.random.Generator, canvas: Canvas) -> None:
    """Three to six rays from a centre; the centre and the rays' ends."""
    count = int(rng.integers(3, 7))
    angles = rng.uniform(0, 2 * np.pi) + 2 * np.pi * (
        (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
    )
    lengths = rng.uniform(0.2, 0.7, count) * _side(canvas)
    centre = rng.uniform(0.2, 0.8, 2) * canvas.size
    ends = centre + lengths[:, None] * np.stack((np.cos(angles), np.sin(angles)), 1)
    grey, thickness = _other_grey(rng, canvas.ground), rng.uniform(1, 0.03 * _side(canvas))
    canvas.start_shape(np.concatenate((centre[None], ends)))
    for end in ends:
        canvas.fill(_bar(centre, end, thickness), grey)


def _board(rng: np.random.Generator, canvas: Canvas, across: Points, down: Points) -> None:
    """Areas between grid lines at `across` and `down`, as shares of the picture, in perspective."""
    grid = np.stack(np.meshgrid(across, down), -1).reshape(-1, 2) * canvas.size
    nodes = np.full_like(grid, np.nan)
    while not np.isfinite(nodes).all():
        nodes = warp_points(grid, sample_homography(rng, canvas.size, _BOARDS))
    canvas.start_shape(nodes)
    corners = nodes.reshape(len(down), len(across), 2)
    one = _other_grey(rng, canvas.ground)
    other = _other_grey(rng, canvas.ground, one)
    jitter = rng.uniform(0, 8)
    for i in range(len(down) - 1):
        for j in range(len(across) - 1):
            cell = corners[[i, i, i + 1, i + 1], [j, j + 1, j + 1, j]]
            grey = (other if (i + j) % 2 else one) + rng.uniform(-1, 1) * jitter
            canvas.fill(cell, float(np.clip(grey, 0, 255)))


def chequerboard(rng: np.random.Generator, canvas: Canvas) -> None:
    """A chequerboard in perspective; all corners of its squares."""
    columns, rows = rng.integers(3, 10, 2)
    left, top = rng.uniform(-0.1, 0.25, 2)
    width, height = rng.uniform(0.5, 1, 2)
    across = left + np.linspace(0, width, columns + 1)
    _board(rng, canvas, across, top + np.linspace(0, height, rows + 1))


def stripes(rng: np.random.Generator, canvas: Canvas) -> None:
    """Stripes of varying width in perspective; their corners."""
    widths = rng.uniform(0.05, 0.2, rng.integers(4, 11))
    across = rng.uniform(-0.1, 0.2) + np.concatenate(([0.0], np.cumsum(widths)))
    top, height = rng.uniform(-0.1, 0.4), rng.uniform(0.3, 0.8)
    _board(rng, canvas, across, np.array([top, top + height]))


def cube(rng: np.random.Generator, canvas: Canvas) -> None:
    """A box whose visible faces differ in grey; the corners of these."""
    unit = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float64)
    rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    box = unit * rng.uniform(0.15, 0.35, 3) * _side(canvas) @ rotation.T
    flat = box[:, :2] + rng.uniform(0.2, 0.8, 2) * canvas.size
    greys, seen = [canvas.ground], np.zeros(8, np.bool_)
    faces = []
    for axis in range(3):
        towards = -1 if rotation[2, axis] > 0 else 1  # the viewer looks along z
        face = np.flatnonzero(unit[:, axis] == towards)[[0, 1, 3, 2]]
        seen[face] = True
        faces.append(face)
    canvas.start_shape(flat[seen])
    for face in faces:
        greys.append(_other_grey(rng, *greys))
        canvas.fill(flat[face], greys[-1])


def noise(rng: np.random.Generator, canvas: Canvas) -> None:
    """Nothing but noise, without corners."""
    canvas.noise(rng)


KINDS: dict[str, Callable[[np.random.Generator, Canvas], None]] = {
    kind.__name__: kind
    for kind in (
        lines,
        polygon,
        polygons,
        ellipses,
        star,
        chequerboard,
        stripes,
        cube,
        noise,
    )
}

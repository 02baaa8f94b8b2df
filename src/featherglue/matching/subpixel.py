"""Sub-pixel refinement of matches, for any features and matcher, in NumPy and OpenCV.

Learned keypoints are 1–1.4 px off their true partner. Here every match that its surroundings
support gets a local affine map from its neighbours, and a small window of the first image is
aligned with it to the second by Gauss–Newton on the translation (the inverse compositional form of
Baker, Matthews: Lucas–Kanade 20 Years On, IJCV 2004), blind to brightness and contrast. It starts
half-way between where the match is and where its neighbours put it.

Shape legend: M matches, S those that are supported, W samples of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.image import Grey
from featherglue.matching.consensus import NEIGHBOURS, LocalMaps, local_maps
from featherglue.matching.scratch import Scratch

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Share of a window's structure that every direction is held back by.
_DAMPING = 0.02
# Grey values by which a window must deviate from its mean: less is noise or rounding.
_FLAT = 0.5
# Sides from which cv2.remap refuses images.
_REMAP_LIMIT = 32767


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """How matches are refined; the defaults were chosen on homographies and real pairs.

    Attributes:
        neighbours: k, supported matches that a local affine map is fitted to.
        support: px, largest deviation from what the neighbours say.
        window: side of the aligned window, px, odd.
        smoothing: sigma of the blur of both images, px.
        pull: share of the way towards where the neighbours put a point at which its alignment
            starts.
        iterations: of Gauss–Newton.
        reach: px, farthest that a point may move.
        correlation: lowest correlation of an accepted alignment.
    """

    neighbours: int = NEIGHBOURS
    support: float = 10.0
    window: int = 11
    smoothing: float = 0.8
    pull: float = 0.5
    iterations: int = 4
    reach: float = 6.0
    correlation: float = 0.6


def refine_matches(
    image0: Grey,
    image1: Grey,
    points0: Float,
    points1: Float,
    config: RefineConfig | None = None,
    scratch: Scratch | None = None,
    maps: LocalMaps | None = None,
) -> tuple[Float, Mask]:
    """Move the points of the second image to where they show what the first ones show.

    Args:
        image0, image1: (H, W) uint8, sizes may differ.
        points0, points1: (M, 2) xy pixels of the matches.
        scratch: of whoever refines many times. maps: of these matches, where they are known.

    Returns:
        points1 (M, 2), changed where the mask (M,) says so: where the neighbours support the
        match, the windows are not flat, their correlation rose, to at least `correlation`, and the
        point moved less than `reach` and stayed in the image.
    """
    config = config or RefineConfig()
    unchanged = points1, np.zeros(len(points1), np.bool_)
    if len(points0) <= config.neighbours:
        return unchanged
    maps = maps or local_maps(points0, points1, config.neighbours)
    chosen = np.flatnonzero(maps.deviation < config.support)
    if len(chosen) == 0:
        return unchanged
    found, near = points1[chosen], maps[chosen]
    pulls = config.pull * near.offsets
    scratch = scratch or Scratch()
    moved, accepted = _align(
        image0, image1, points0[chosen], found, pulls, near.affine, config, scratch
    )
    refined = points1.copy()
    refined[chosen[accepted]] = moved[accepted]
    mask = np.zeros(len(points1), np.bool_)
    mask[chosen[accepted]] = True
    return refined, mask


def _align(
    image0: Grey,
    image1: Grey,
    points0: Float,
    points1: Float,
    pulls: Float,
    maps: Float,
    config: RefineConfig,
    scratch: Scratch,
) -> tuple[Float, Mask]:
    """Aligned points (S, 2) and which of them to accept (S,).

    `pulls` (2, S) lead from the points of image 1 to where the alignment starts.
    Arrays are (W, S): a window's samples lie apart, so that what is summed over a window is
    summed over rows.
    """
    smooth0, smooth1 = (
        _smooth(image, config.smoothing, scratch.array(name, image.shape, np.uint8))
        for name, image in (("smooth0", image0), ("smooth1", image1))
    )
    grid, weights = _window(config.window)
    template, slopes, contrast, level = _template(smooth0, points0, weights, config.window, scratch)
    to_step = _gains(slopes, weights, contrast, maps)
    # Against these, a seen window's products give its correlation and its step.
    against = scratch.array("against", (3, *template.shape), np.float32)
    np.multiply(slopes, weights[:, None], out=against[:2])
    np.multiply(template, weights[:, None], out=against[2])
    of_template = np.einsum("kws,ws->ks", against[:2], template)
    of_one = against[:2].sum(1)
    window_x, window_y = grid @ maps[:, 0].T, grid @ maps[:, 1].T
    moved = points1.T.copy()
    column, row, seen = scratch.array("samples", (3, *template.shape), np.float32)
    first = last = deviation = np.zeros(0, np.float32)
    for step in range(config.iterations + 2):  # at the match, from the start on, at the end
        np.add(window_x, moved[0], out=column)
        np.add(window_y, moved[1], out=row)
        np.subtract(_sample(smooth1, column, row), level, out=seen)
        mean = weights @ seen
        square = weights @ np.multiply(seen, seen, out=column)
        products = np.einsum("kws,ws->ks", against, seen)
        deviation = np.sqrt(np.maximum(square - mean * mean, 0)) + np.float32(1e-3)
        last = products[2] / deviation
        if step == 0:
            first = last
            moved += pulls
        elif step <= config.iterations:
            residual = of_template - (products[:2] - mean * of_one) / deviation
            moved += to_step[:, 0] * residual[0] + to_step[:, 1] * residual[1]
    near = np.square(moved.T - points1).sum(1) < config.reach**2
    height, width = image1.shape
    x, y = moved
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    better = (last > first) & (last > config.correlation) & (contrast > _FLAT) & (deviation > _FLAT)
    return moved.T, better & near & inside


def _smooth(image: Grey, sigma: float, into: Grey) -> Grey:
    cv2.GaussianBlur(image, (3, 3), sigma, dst=into)
    return into


@cache
def _window(size: int) -> tuple[Float, Float]:
    """Offsets (W, 2) of a round window's samples, x before y, and their weights (W,), sum 1."""
    half = size // 2
    side = np.arange(-half, half + 1, dtype=np.float32)
    grid = np.stack([axis.reshape(-1) for axis in np.meshgrid(side, side)], 1)
    squares = np.square(grid).sum(1)
    kept = squares < (half + 1) ** 2
    weights = np.exp(-squares[kept] / np.float32(2 * (half / 1.5) ** 2))
    return grid[kept], weights / weights.sum()


@cache
def _neighbourhood(size: int) -> tuple[Float, NDArray[np.int64], list[NDArray[np.int64]]]:
    """The offsets of a round window and of its pixels' neighbours, and where in them are which.

    Returns:
        offsets (V, 2); the places (W,) of the window's own; those of the neighbours to the left,
        to the right, above and below.
    """
    grid, _ = _window(size)
    sides = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], np.float32)
    offsets, place = np.unique((grid + sides[:, None]).reshape(-1, 2), axis=0, return_inverse=True)
    centre, *neighbours = place.reshape(5, -1)
    return offsets, centre, neighbours


def _template(
    image: Grey, points: Float, weights: Float, size: int, scratch: Scratch
) -> tuple[Float, Float, Float, Float]:
    """Windows of the first image.

    Returns:
        the normalised windows (W, S); their slopes along x and y (2, W, S), as differences over
        2 px; the windows' deviations (S,) and means (S,) before.
    """
    around, centre, (left, right, above, below) = _neighbourhood(size)
    shape = (len(around), len(points))
    column, row, wide = scratch.array("around", (3, *shape), np.float32)
    np.add(around[:, :1], points[:, 0], out=column)
    np.add(around[:, 1:], points[:, 1], out=row)
    wide[:] = _sample(image, column, row)
    parts = scratch.array("template", (3, len(centre), len(points)), np.float32)
    windows, slopes = parts[0], parts[1:]
    np.take(wide, centre, axis=0, out=windows)
    for slope, before, after in zip(slopes, (left, above), (right, below), strict=True):
        np.subtract(wide[after], wide[before], out=slope)
    level = weights @ windows
    windows -= level
    contrast = np.sqrt(weights @ np.square(windows)) + np.float32(1e-3)
    windows /= contrast
    return windows, slopes, contrast, level


def _gains(slopes: Float, weights: Float, contrast: Float, maps: Float) -> Float:
    """What turns the residual's products with the weighted slopes into the Gauss–Newton step.

    The damping holds a window back along an edge, where it would slide.

    Args:
        slopes: (2, W, S), differences over 2 px. contrast: (S,). maps: (S, 2, 2).

    Returns:
        (2, 2, S): the step in image 1 (x, y) for each of the two products.
    """
    half = np.float32(0.5) / contrast  # central differences, of the normalised template
    x, y = slopes
    xx, yy, xy = (
        (weights @ (one * other)) * half * half for one, other in ((x, x), (y, y), (x, y))
    )
    damping = np.float32(_DAMPING) * (xx + yy) + np.float32(1e-6)
    xx, yy = xx + damping, yy + damping
    # maps (S, 2, 2) times the inverse of the 2×2 matrix
    inverse = np.stack((yy, -xy, -xy, xx)).reshape(2, 2, -1) * (half / (xx * yy - xy * xy))
    return np.asarray(np.einsum("sij,jks->iks", maps, inverse), np.float32)


def _sample(image: Grey, x: Float, y: Float) -> NDArray[np.generic]:
    """Bilinear samples of an image at (W, S) columns and rows; its border is repeated."""
    if max(*image.shape, *x.shape) >= _REMAP_LIMIT:
        return _sample_large(image, x, y)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _sample_large(image: Grey, x: Float, y: Float) -> Float:
    """As `_sample`, where OpenCV's 16-bit coordinates do not suffice."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left, y - top
    above = image[top, left] * (1 - fx) + image[top, right] * fx
    below = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return np.asarray(above * (1 - fy) + below * fy, np.float32)

"""Subpixel refinement of matches, for any features and matcher.

A match that its neighbors support has a local affine map. It warps a small window of image 0,
which is then aligned to image 1 by Gauss–Newton on the translation (inverse compositional, Baker
and Matthews 2004). The alignment is invariant to brightness and contrast. It starts between the
match and the position that its neighbors predict.

Shape legend: M matches, S supported matches, W samples of a window, V samples of a window and its
border.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.consensus import NUM_NEIGHBORS, LocalMaps, fit_local_maps
from featherglue.matching.scratch import Scratch
from featherglue.native import kernels

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

_DAMPING = 0.02  # relative to the trace of a window's structure tensor
_EXACT_MOVE, _EXACT_CORRELATION = 0.02, 0.995  # px, and of the windows of an exact match
_MIN_CONTRAST = 0.5  # gray values, standard deviation of a window; less is noise or rounding
_LEAST_STEP = 0.01  # px, ends the iterations of a window
_REMAP_LIMIT = 32767  # px, cv2.remap needs shorter sides


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Settings of the refinement.

    Attributes:
        num_neighbors: number of nearest matches that a local affine map is fitted to.
        max_deviation: px, maximum distance from the predicted position of a supported match.
        window: px, odd side of the aligned window.
        sigma: px, standard deviation of the blur of both images.
        pull: start of the alignment, in [0, 1] from the match to its predicted position.
        iterations: number of Gauss–Newton iterations.
        max_move: px, maximum distance of a refined point from the match.
        min_correlation: minimum correlation of an accepted alignment.
    """

    num_neighbors: int = NUM_NEIGHBORS
    max_deviation: float = 10.0
    window: int = 11
    sigma: float = 0.8
    pull: float = 0.5
    iterations: int = 4
    max_move: float = 6.0
    min_correlation: float = 0.6


@dataclass(frozen=True, eq=False)
class Alignment:
    """Windows of image 0 that are aligned to image 1, one for each match.

    Attributes:
        points1: (M, 2) float32, (x, y) pixels in image 1 of the points of image 0.
        accepted: (M,) bool, whether the alignment meets the conditions of `refine_matches`.
        exact: (M,) bool, whether the match was aligned before, as in copies of one photograph: the
            alignment can improve nothing.
        correlation: (M,) float32, of the aligned windows.
        tensor: (3, M) float32, structure tensor of each window of image 0, normalized to unit
            variance: its entries xx, yy and xy, px⁻².
    """

    points1: Float
    accepted: Mask
    exact: Mask
    correlation: Float
    tensor: Float


def refine_matches(
    image0: Gray,
    image1: Gray,
    points0: Float,
    points1: Float,
    config: RefineConfig | None = None,
    scratch: Scratch | None = None,
    maps: LocalMaps | None = None,
) -> tuple[Float, Mask]:
    """Align the points of image 1 to those of image 0.

    A refined point is accepted if the neighbors support the match, both windows have contrast,
    their correlation has increased and exceeds `min_correlation`, and the point has moved less than
    `max_move` and lies inside the image.

    Args:
        image0, image1: (H, W) uint8 gray images of any sizes.
        points0, points1: (M, 2) float32 (x, y) pixels of the matches.
        config: settings; None uses the defaults.
        scratch: buffers, if many pairs are refined.
        maps: local maps of these matches; None fits them.

    Returns:
        Points (M, 2) float32 in image 1, and a mask (M,) bool of the refined ones.
    """
    config = config or RefineConfig()
    unchanged = points1, np.zeros(len(points1), np.bool_)
    if maps is None:
        if len(points0) <= config.num_neighbors:
            return unchanged
        maps = fit_local_maps(points0, points1, config.num_neighbors)
    chosen = np.flatnonzero(maps.deviation < config.max_deviation)
    if len(chosen) == 0:
        return unchanged
    selected = maps[chosen]
    scratch = scratch or Scratch()
    smooth0, smooth1 = (
        smooth_image(image, config.sigma, scratch.array(name, image.shape, np.uint8))
        for name, image in (("smooth0", image0), ("smooth1", image1))
    )
    aligned = align_windows(
        smooth0,
        smooth1,
        points0[chosen],
        points1[chosen],
        config.pull * selected.offsets,
        selected.affine,
        config,
        scratch,
    )
    accepted = chosen[aligned.accepted]
    refined = points1.copy()
    refined[accepted] = aligned.points1[aligned.accepted]
    mask = np.zeros(len(points1), np.bool_)
    mask[accepted] = True
    return refined, mask


def smooth_image(image: Gray, sigma: float, out: Gray | None = None) -> Gray:
    """The image that `align_windows` takes: blurred by a Gaussian of `sigma` pixels."""
    return np.asarray(cv2.GaussianBlur(image, (3, 3), sigma, dst=out), np.uint8)


def align_windows(
    smooth0: Gray,
    smooth1: Gray,
    points0: Float,
    points1: Float,
    pulls: Float,
    maps: Float,
    config: RefineConfig,
    scratch: Scratch,
) -> Alignment:
    """Align the windows of supported matches.

    Args:
        smooth0, smooth1: (H, W) uint8, see `smooth_image`.
        points0, points1: (S, 2) float32 (x, y) pixels.
        pulls: (2, S), px, from the points of image 1 to the start of the alignment.
        maps: (S, 2, 2), linear parts of the local maps.
        config: settings.
        scratch: buffers.
    """
    found = kernels.align_windows(
        (smooth0, smooth1),
        (points0, points1),
        pulls.T,
        maps,
        _kernel_window(config.window),
        config.iterations,
        _DAMPING,
        _LEAST_STEP,
    )
    if found is None:
        found = _align(smooth0, smooth1, points0, points1, pulls, maps, config, scratch)
    moved, quality, tensor = found
    initial, correlation, contrast0, contrast1 = quality.T
    squares = np.square(moved - points1).sum(1)
    near = squares < config.max_move**2
    height, width = smooth1.shape
    x, y = moved.T
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    textured = (contrast0 > _MIN_CONTRAST) & (contrast1 > _MIN_CONTRAST)
    better = (correlation > initial) & (correlation > config.min_correlation)
    accepted = better & textured & near & inside
    exact = (squares < _EXACT_MOVE**2) & (initial > _EXACT_CORRELATION) & textured & inside
    return Alignment(moved, accepted, exact, correlation, tensor.T)


def _align(
    smooth0: Gray,
    smooth1: Gray,
    points0: Float,
    points1: Float,
    pulls: Float,
    maps: Float,
    config: RefineConfig,
    scratch: Scratch,
) -> tuple[Float, Float, Float]:
    """As `kernels.align_windows`, in NumPy and with all iterations."""
    # Arrays are (W, S), such that sums over a window are sums over rows.
    grid, weights = _window(config.window)
    template, gradients, contrast0, mean0 = _template(
        smooth0, points0, weights, config.window, scratch
    )
    steps, tensor = _step_matrices(gradients, weights, contrast0, maps)
    # Products of a sampled window with these factors give its correlation and its step.
    factors = scratch.array("factors", (3, *template.shape), np.float32)
    np.multiply(gradients, weights[:, None], out=factors[:2])
    np.multiply(template, weights[:, None], out=factors[2])
    template_products = np.einsum("kws,ws->ks", factors[:2], template)
    factor_sums = factors[:2].sum(1)
    window_x, window_y = grid @ maps[:, 0].T, grid @ maps[:, 1].T
    moved = points1.T.copy()
    column, row, sampled = scratch.array("samples", (3, *template.shape), np.float32)
    initial = correlation = contrast1 = np.zeros(0, np.float32)
    # One evaluation at the match, one before each step, one at the result.
    for step in range(config.iterations + 2):
        np.add(window_x, moved[0], out=column)
        np.add(window_y, moved[1], out=row)
        np.subtract(_sample(smooth1, column, row), mean0, out=sampled)
        mean = weights @ sampled
        square = weights @ np.multiply(sampled, sampled, out=column)
        products = np.einsum("kws,ws->ks", factors, sampled)
        contrast1 = np.sqrt(np.maximum(square - mean * mean, 0)) + np.float32(1e-3)
        correlation = products[2] / contrast1
        if step == 0:
            initial = correlation
            moved += pulls
        elif step <= config.iterations:
            residual = template_products - (products[:2] - mean * factor_sums) / contrast1
            moved += steps[:, 0] * residual[0] + steps[:, 1] * residual[1]
    quality = np.stack((initial, correlation, contrast0, contrast1), 1)
    return moved.T, quality, tensor.T


@cache
def _window(size: int) -> tuple[Float, Float]:
    """Offsets (W, 2) of the samples of a round window, (x, y), and their weights (W,), sum 1."""
    half = size // 2
    side = np.arange(-half, half + 1, dtype=np.float32)
    grid = np.stack([axis.reshape(-1) for axis in np.meshgrid(side, side)], 1)
    squares = np.square(grid).sum(1)
    disc = squares < (half + 1) ** 2
    weights = np.exp(-squares[disc] / np.float32(2 * (half / 1.5) ** 2))
    return grid[disc], weights / weights.sum()


@cache
def _kernel_window(size: int) -> tuple[Float, NDArray[np.int32], Float, int]:
    """The window as `kernels.align_windows` takes it."""
    grid, weights = _window(size)
    side = size + 2
    column, row = grid.astype(np.int32).T + side // 2
    return np.ascontiguousarray(grid.T), np.ascontiguousarray(row * side + column), weights, side


@cache
def _neighborhood(size: int) -> tuple[Float, NDArray[np.int64], list[NDArray[np.int64]]]:
    """The samples of a round window and their neighbors, which gradients need.

    Returns:
        Offsets (V, 2); indices (W,) of the samples of the window; indices (W,) of their neighbors
        to the left, to the right, above and below.
    """
    grid, _ = _window(size)
    sides = np.array([(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)], np.float32)
    offsets, place = np.unique((grid + sides[:, None]).reshape(-1, 2), axis=0, return_inverse=True)
    center, *neighbors = place.reshape(5, -1)
    return offsets, center, neighbors


def _template(
    image: Gray, points: Float, weights: Float, size: int, scratch: Scratch
) -> tuple[Float, Float, Float, Float]:
    """Sample and normalize the windows of image 0.

    Returns:
        Windows (W, S) with mean 0 and standard deviation 1; their gradients along x and y
        (2, W, S), as differences over 2 px of the gray values; standard deviations (S,) and means
        (S,) of the gray values.
    """
    offsets, center, (left, right, above, below) = _neighborhood(size)
    shape = (len(offsets), len(points))
    column, row, wide = scratch.array("wide", (3, *shape), np.float32)
    np.add(offsets[:, :1], points[:, 0], out=column)
    np.add(offsets[:, 1:], points[:, 1], out=row)
    wide[:] = _sample(image, column, row)
    parts = scratch.array("template", (3, len(center), len(points)), np.float32)
    windows, gradients = parts[0], parts[1:]
    np.take(wide, center, axis=0, out=windows)
    for gradient, before, after in zip(gradients, (left, above), (right, below), strict=True):
        np.subtract(wide[after], wide[before], out=gradient)
    mean = weights @ windows
    windows -= mean
    contrast = np.sqrt(weights @ np.square(windows)) + np.float32(1e-3)
    windows /= contrast
    return windows, gradients, contrast, mean


def _step_matrices(
    gradients: Float, weights: Float, contrast: Float, maps: Float
) -> tuple[Float, Float]:
    """Matrices that map products of residual and weighted gradients to Gauss–Newton steps.

    The damping keeps a window from sliding along an edge.

    Args:
        gradients: (2, W, S), differences over 2 px of the gray values.
        weights: (W,).
        contrast: (S,), standard deviations of the windows.
        maps: (S, 2, 2), linear parts of the local maps.

    Returns:
        (2, 2, S): the step (x, y) in image 1 for each of the two products; and the structure
        tensors (3, S), entries xx, yy and xy.
    """
    half = np.float32(0.5) / contrast  # central differences of the normalized window
    x, y = gradients
    xx, yy, xy = (
        (weights @ (one * other)) * half * half for one, other in ((x, x), (y, y), (x, y))
    )
    tensor = np.stack((xx, yy, xy))
    damping = np.float32(_DAMPING) * (xx + yy) + np.float32(1e-6)
    xx, yy = xx + damping, yy + damping
    inverse = np.stack((yy, -xy, -xy, xx)).reshape(2, 2, -1) * (half / (xx * yy - xy * xy))
    return np.asarray(np.einsum("sij,jks->iks", maps, inverse), np.float32), tensor


def _sample(image: Gray, x: Float, y: Float) -> NDArray[np.generic]:
    """Sample an image bilinearly at columns and rows (W, S); its border is repeated."""
    if x.size == 0:
        return np.zeros(x.shape, np.float32)
    if max(*image.shape, *x.shape) >= _REMAP_LIMIT:
        return _sample_large(image, x, y)
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _sample_large(image: Gray, x: Float, y: Float) -> Float:
    """As `_sample`, for sides beyond OpenCV's 16-bit coordinates."""
    height, width = image.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    fx, fy = x - left, y - top
    above = image[top, left] * (1 - fx) + image[top, right] * fx
    below = image[bottom, left] * (1 - fx) + image[bottom, right] * fx
    return np.asarray(above * (1 - fy) + below * fy, np.float32)

"""Sub-pixel refinement of matches, for any features and matcher, in NumPy and OpenCV.

Learned keypoints are 1–1.4 px off their true partner. Here every match that its surroundings
support gets a local affine map from its neighbours, and a small window of the first image is
aligned with it to the second by Gauss–Newton on the translation (the inverse compositional form of
Baker, Matthews: Lucas–Kanade 20 Years On, IJCV 2004), blind to brightness and contrast.

Shape legend: M matches, S those that are supported, k neighbours, W samples of a window.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.image import Grey

Float = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Residuals (px) beyond which neighbours lose weight, from one round to the next.
_SCALES = (8.0, 4.0)
# Pull towards the median affine map, against the spread of ten neighbours.
_RIDGE = 0.05
# Share of a window's structure that every direction is held back by.
_DAMPING = 0.02
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
        iterations: of Gauss–Newton.
        reach: px, farthest that a point may move.
        correlation: lowest correlation of an accepted alignment.
    """

    neighbours: int = 10
    support: float = 10.0
    window: int = 11
    smoothing: float = 0.8
    iterations: int = 5
    reach: float = 6.0
    correlation: float = 0.6


def refine_matches(
    image0: Grey,
    image1: Grey,
    points0: Float,
    points1: Float,
    config: RefineConfig | None = None,
) -> tuple[Float, Mask]:
    """Move the points of the second image to where they show what the first ones show.

    Args:
        image0, image1: (H, W) uint8, sizes may differ.
        points0, points1: (M, 2) xy pixels of the matches.

    Returns:
        points1 (M, 2), changed where the mask (M,) says so: where the neighbours support the
        match, the correlation of the windows rose, and the point moved less than `reach`.
    """
    config = config or RefineConfig()
    unchanged = points1, np.zeros(len(points1), np.bool_)
    if len(points0) <= config.neighbours:
        return unchanged
    affine, deviation = local_affine_maps(points0, points1, config)
    chosen = np.flatnonzero(deviation < config.support)
    if len(chosen) == 0:
        return unchanged
    start, maps = points1[chosen], affine[chosen]
    moved, accepted = _align(image0, image1, points0[chosen], start, maps, config)
    refined = points1.copy()
    refined[chosen[accepted]] = moved[accepted]
    mask = np.zeros(len(points1), np.bool_)
    mask[chosen[accepted]] = True
    return refined, mask


def local_affine_maps(points0: Float, points1: Float, config: RefineConfig) -> tuple[Float, Float]:
    """Affine maps from each match's neighbours, by re-weighted least squares.

    Where the neighbours leave a map undetermined (they lie on a line, say) it leans towards the
    median of all maps.

    Returns:
        maps (M, 2, 2), of offsets in image 0 to offsets in image 1; deviations (M,), px: how far
        each point lies from where its neighbours (without itself) put it.
    """
    (x0, y0), (x1, y1) = points0.T, points1.T
    flat = np.ascontiguousarray(points0)
    distance, near = cv2.batchDistance(flat, flat, cv2.CV_32F, K=config.neighbours + 1)
    near, distance = _without_itself(near, np.asarray(distance, np.float32))
    spread = np.sqrt(np.square(distance).mean(1))[:, None] + np.float32(1e-3)
    # Unknowns: the linear part in units of `spread`, and the constant that the point deviates by.
    design = np.stack(
        (
            (x0[near] - x0[:, None]) / spread,
            (y0[near] - y0[:, None]) / spread,
            np.ones(near.shape, np.float32),
        ),
        1,
    )  # (M, 3, k)
    target = np.stack((x1[near] - x1[:, None], y1[near] - y1[:, None]), 1)  # (M, 2, k)
    both = np.concatenate((design, target), 1).transpose(0, 2, 1)  # (M, k, 5)
    prior = np.zeros((len(points0), 2, 2), np.float32)
    solution = _solve((design @ both), prior)
    prior += np.median(solution[:, :, :2] / spread[..., None], axis=0) * spread[..., None]
    for scale in _SCALES:
        residual = target - solution @ design
        weights = 1 / np.square(1 + np.square(residual).sum(1) / np.float32(scale**2))
        solution = _solve((design * weights[:, None]) @ both, prior)
    constant = solution[:, :, 2]
    deviation = np.hypot(constant[:, 0], constant[:, 1])
    return solution[:, :, :2] / spread[..., None], deviation


def _without_itself(near: NDArray[Any], distance: Float) -> tuple[NDArray[Any], Float]:
    """Neighbours (M, k+1) and distances without the point itself (M, k), nearest first."""
    rows = np.arange(len(near))
    if (near[:, 0] == rows).all():
        return near[:, 1:], distance[:, 1:]
    own = (near == rows[:, None]).argmax(1)  # not the first where several share a place
    order = np.arange(near.shape[1] - 1)
    others = order + (order >= own[:, None])
    return np.take_along_axis(near, others, 1), np.take_along_axis(distance, others, 1)


def _solve(moments: Float, prior: Float) -> Float:
    """Solve weighted normal equations with a pull of the linear part towards a prior.

    Args:
        moments: (M, 3, 5), the normal matrix and its two right-hand sides.
        prior: (M, 2, 2).

    Returns:
        (M, 2, 3): for x and y of image 1, the linear part and the constant.
    """
    normal, right = moments[:, :, :3].copy(), moments[:, :, 3:].copy()
    ridge = np.float32(_RIDGE)
    normal[:, [0, 1], [0, 1]] += ridge
    normal[:, 2, 2] += np.float32(1e-4)
    right[:, :2] += ridge * prior.transpose(0, 2, 1)
    a, b, c = normal[:, 0].T
    d, e, f = normal[:, 1, 1], normal[:, 1, 2], normal[:, 2, 2]
    cofactors = np.stack(
        (d * f - e * e, c * e - b * f, b * e - c * d, a * f - c * c, b * c - a * e, a * d - b * b)
    )
    determinant = a * cofactors[0] + b * cofactors[1] + c * cofactors[2]
    inverse = (cofactors / determinant)[[0, 1, 2, 1, 3, 4, 2, 4, 5]].T.reshape(-1, 3, 3)
    solved: Float = (inverse @ right).transpose(0, 2, 1)
    return solved


def _align(
    image0: Grey,
    image1: Grey,
    points0: Float,
    points1: Float,
    maps: Float,
    config: RefineConfig,
) -> tuple[Float, Mask]:
    """Aligned points (S, 2) and which of them to accept (S,)."""
    half, size = config.window // 2, config.window
    smooth0, smooth1 = (
        np.asarray(cv2.GaussianBlur(image, (3, 3), config.smoothing), np.uint8)
        for image in (image0, image1)
    )
    # The template is sampled one pixel wider on each side, for its slopes.
    side = np.arange(-half - 1, half + 2, dtype=np.float32)
    wide_x, wide_y = (axis.reshape(-1) for axis in np.meshgrid(side, side))
    (x0, y0), (x1, y1) = points0.T[..., None], points1.T[..., None]
    wide = _sample(smooth0, x0 + wide_x, y0 + wide_y).reshape(-1, size + 2, size + 2)
    side = side[1:-1]
    grid = np.stack([axis.reshape(-1) for axis in np.meshgrid(side, side)])  # (2, W)
    weights = np.exp(-np.square(grid).sum(0) / np.float32(2 * (half / 1.5) ** 2))
    weights /= weights.sum()
    template, contrast = _normalize(wide[:, 1:-1, 1:-1].reshape(len(wide), -1), weights)
    slope_x = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]).reshape(len(wide), -1)
    slope_y = (wide[:, 2:, 1:-1] - wide[:, :-2, 1:-1]).reshape(len(wide), -1)
    to_step_x, to_step_y = _gains(slope_x, slope_y, weights, contrast, maps)
    window_x, window_y = maps[:, 0] @ grid, maps[:, 1] @ grid
    x, y = x1, y1
    first = last = np.zeros(0, np.float32)
    for step in range(config.iterations + 1):
        seen, _ = _normalize(_sample(smooth1, x + window_x, y + window_y), weights)
        last = (template * seen) @ weights
        if step == 0:
            first = last
        if step < config.iterations:
            residual = template - seen
            x = x + np.einsum("sw,sw->s", to_step_x, residual)[:, None]
            y = y + np.einsum("sw,sw->s", to_step_y, residual)[:, None]
    moved = np.concatenate((x, y), 1)
    near = np.square(moved - points1).sum(1) < config.reach**2
    height, width = image1.shape
    inside = ((moved >= 0) & (moved <= (width - 1, height - 1))).all(1)
    return moved, (last > first) & (last > config.correlation) & near & inside


def _gains(
    slope_x: Float, slope_y: Float, weights: Float, contrast: Float, maps: Float
) -> tuple[Float, Float]:
    """What turns residuals (S, W) into the Gauss–Newton step in image 1, for x and for y.

    The damping holds a window back along an edge, where it would slide.
    """
    half = (0.5 / contrast)[:, None]  # central differences, of the normalised template
    slope_x, slope_y = slope_x * half, slope_y * half
    weighted_x, weighted_y = slope_x * weights, slope_y * weights
    xx = np.einsum("sw,sw->s", weighted_x, slope_x)
    yy = np.einsum("sw,sw->s", weighted_y, slope_y)
    xy = np.einsum("sw,sw->s", weighted_x, slope_y)
    damping = np.float32(_DAMPING) * (xx + yy) + np.float32(1e-6)
    xx, yy = xx + damping, yy + damping
    determinant = xx * yy - xy * xy
    # maps (S, 2, 2) times the inverse of the 2×2 matrix
    inverse = np.stack((yy, -xy, -xy, xx), 1).reshape(-1, 2, 2) / determinant[:, None, None]
    both = (maps @ inverse)[..., None]
    return (
        both[:, 0, 0] * weighted_x + both[:, 0, 1] * weighted_y,
        both[:, 1, 0] * weighted_x + both[:, 1, 1] * weighted_y,
    )


def _sample(image: Grey, x: Float, y: Float) -> Float:
    """Bilinear samples of an image at (S, W) columns and rows; its border is repeated."""
    if max(*image.shape, *x.shape) >= _REMAP_LIMIT:
        return _sample_large(image, x, y)
    samples = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return samples.astype(np.float32)


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


def _normalize(windows: Float, weights: Float) -> tuple[Float, Float]:
    """Windows (S, W) with weighted mean 0 and deviation 1, and what the deviation was."""
    centred = windows - (windows @ weights)[:, None]
    contrast = np.sqrt(np.square(centred) @ weights) + np.float32(1e-3)
    return np.divide(centred, contrast[:, None], dtype=np.float32), contrast

"""Filter matches by the consensus of their neighbors.

A local affine map, fitted to the nearest matches, predicts where a point lies in image 1. Wrong
matches rarely lie near the prediction; true matches mostly do, also on curved and broken surfaces.
Related methods: GMS (Bian et al. 2017) and AdaLAM (Cavalli et al. 2020).

Shape legend: M matches, k neighbors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError
from featherglue.native import kernels

Float = NDArray[np.float32]
Index = NDArray[np.int64]

NUM_NEIGHBORS = 10  # for maps of matches that have been filtered
# The filter takes more neighbors, because some are wrong, and a minimum of retained ones.
_NUM_FILTER_NEIGHBORS, _MIN_RETAINED = 13, 5
_MIN_WEIGHT = 0.01  # of a neighbor with score 0
# Residuals (px) that reduce the weight of a neighbor to a quarter, in successive iterations.
_SCALES = (8.0, 4.0)
# Maximum deviation (px) and residual scales: first with wrong neighbors, then without most.
_PASSES = ((20.0, (32.0, 8.0)), (10.0, _SCALES))
_CURVATURE = 0.5  # added to the maximum deviation, times the distance of the neighbors
_FLANN_SINGLE_TREE = 4  # exact search
_MAX_COORDINATE = 1e9  # px; squared distances overflow beyond
# Ridge that pulls a map toward the median of all maps, relative to the spread of the neighbors.
# The first fit has no median yet and uses a smaller one.
_RIDGE, _INITIAL_RIDGE = 0.05, 1e-3


@dataclass(frozen=True, eq=False)
class LocalMaps:
    """Local affine maps from image 0 to image 1, one for each match.

    Attributes:
        affine: (M, 2, 2) float32, linear part.
        offsets: (2, M) float32, px, prediction minus position of each point in image 1.
        distance: (M,) float32, px, root mean square distance of the neighbors in image 1, from
            that in image 0 and the area change of the map.
    """

    affine: Float
    offsets: Float
    distance: Float

    @property
    def deviation(self) -> Float:
        """(M,) float32, px, distance of each point in image 1 from its prediction."""
        return np.asarray(np.hypot(*self.offsets), np.float32)

    def __getitem__(self, chosen: Index) -> LocalMaps:
        return LocalMaps(self.affine[chosen], self.offsets[:, chosen], self.distance[chosen])


def filter_by_consensus(
    points0: Float, points1: Float, scores: Float, confidence: float
) -> tuple[Index, LocalMaps | None]:
    """Select the matches that their neighbors support or whose score is high.

    With at most 13 matches all are kept.

    Args:
        points0, points1: (M, 2) float32 (x, y) pixels.
        scores: (M,) float32 in [0, 1].
        confidence: matches with a higher score are kept without support.

    Returns:
        Indices (N,) of the kept matches, ascending, and their local maps; None instead of maps if
        there are too few matches.

    Raises:
        UsageError: a coordinate is not finite.
    """
    every = np.arange(len(points0))
    if len(every) <= _NUM_FILTER_NEIGHBORS:
        return every, None
    neighborhoods = Neighborhoods.find(points0, points1, _NUM_FILTER_NEIGHBORS)
    kept = np.ones(len(every), np.bool_)
    maps = None
    weights = np.maximum(scores, np.float32(_MIN_WEIGHT))
    weights /= weights.max()
    for max_deviation, scales in _PASSES:
        maps = neighborhoods.fit(weights * kept, scales)
        supported = kept[neighborhoods.indices].sum(0) >= _MIN_RETAINED
        supported &= maps.deviation < max_deviation + np.float32(_CURVATURE) * maps.distance
        kept &= supported | (scores > confidence)
        if np.count_nonzero(kept) <= _NUM_FILTER_NEIGHBORS:
            return np.flatnonzero(kept), None
    indices = np.flatnonzero(kept)
    return indices, None if maps is None else maps[indices]


def fit_local_maps(points0: Float, points1: Float, num_neighbors: int = NUM_NEIGHBORS) -> LocalMaps:
    """Fit a local affine map to the neighbors of each match, with equal weights.

    Args:
        points0, points1: (M, 2) float32 (x, y) pixels, M > `num_neighbors`.
        num_neighbors: k, number of nearest matches in image 0.

    Raises:
        UsageError: a coordinate is not finite.
    """
    neighborhoods = Neighborhoods.find(points0, points1, num_neighbors)
    return neighborhoods.fit(np.ones(len(points0), np.float32), _SCALES)


@dataclass(frozen=True, eq=False)
class Neighborhoods:
    """The nearest matches of each match in image 0.

    Attributes:
        indices: (k, M) of the neighbors.
        spread: (M,) float32, px, root mean square distance of the neighbors in image 0.
        relative: (5, k, M) float32: x and y of the neighbors in image 0 relative to the match, in
            units of `spread`; 1; x and y in image 1 relative to the match, px. M is padded with
            zeros to a multiple of `kernels.LANES`.
    """

    indices: NDArray[Any]
    spread: Float
    relative: Float

    @staticmethod
    def find(points0: Float, points1: Float, num_neighbors: int = NUM_NEIGHBORS) -> Neighborhoods:
        """Search the neighbors of each match. See `fit_local_maps` for the arguments."""
        indices, squares = nearest_points(points0, num_neighbors)
        spread = np.sqrt(np.ascontiguousarray(squares.T).mean(1)) + np.float32(1e-3)
        count = indices.shape[1]
        relative = np.zeros((5, len(indices), _padded(count)), np.float32)
        relative[2] = 1
        for row, values in zip((0, 1, 3, 4), (*points0.T, *points1.T), strict=True):
            np.subtract(values[indices], values, out=relative[row, :, :count])
        relative[:2, :, :count] /= spread
        return Neighborhoods(indices, spread, relative)

    def fit(self, weights: Float, scales: Sequence[float]) -> LocalMaps:
        """Fit the affine maps by iteratively re-weighted least squares.

        A ridge pulls each map toward the median of all maps. It decides where the neighbors do
        not determine the map, for example on a line.

        Args:
            weights: (M,) float32 in [0, 1], weight of each match as a neighbor.
            scales: px, residual that reduces a weight to a quarter, for each iteration.
        """
        count, padded = len(weights), self.relative.shape[2]
        base = np.zeros(self.relative.shape[1:], np.float32)
        base[:, :count] = weights[self.indices]
        # Unknowns: the linear part in units of `spread`, and the offset of the prediction.
        solution = np.zeros((2, 3, padded), np.float32)
        prior = np.zeros((2, 2, padded), np.float32)
        _fit_step(self.relative, base, prior, _INITIAL_RIDGE, 0, solution)
        medians = _medians(solution[:, :2, :count] / self.spread)
        prior[:, :, :count] = medians * self.spread
        for scale in scales:
            _fit_step(self.relative, base, prior, _RIDGE, scale, solution)
        solution = solution[:, :, :count]
        linear = solution[:, :2] / self.spread
        area = np.abs(linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0])
        return LocalMaps(
            affine=np.ascontiguousarray(linear.transpose(2, 0, 1)),
            offsets=np.ascontiguousarray(solution[:, 2]),
            distance=self.spread * np.sqrt(area),
        )


def _padded(count: int) -> int:
    return -(-count // kernels.LANES) * kernels.LANES


def _fit_step(
    relative: Float, base: Float, prior: Float, ridge: float, scale: float, solution: Float
) -> None:
    """One step of the fit, in place: weights from the residuals, unless `scale` is 0, and solve.

    See `Neighborhoods.fit` and `kernels.fit_maps` for the arguments.
    """
    if kernels.fit_maps(relative, base, prior, ridge, scale, solution):
        return
    design, target = relative[:3], relative[3:]
    weights = base
    if scale > 0:
        residual = target - np.einsum("aim,ikm->akm", solution, design)
        squares = np.square(residual, out=residual)
        weights = base / np.square(1 + (squares[0] + squares[1]) / np.float32(scale**2))
    moments = np.einsum("ikm,jkm->ijm", design * weights, relative)
    solution[:] = _solve(moments, prior, ridge)


def nearest_points(points: Float, count: int) -> tuple[NDArray[Any], Float]:
    """Indices and squared distances (count, M) of the nearest other points, nearest first."""
    if not np.abs(points).max() < _MAX_COORDINATE:
        raise UsageError("keypoints must be finite pixel coordinates")
    compiled = kernels.nearest_points(points, count)
    if compiled is not None:
        return compiled
    tree = cv2.flann.Index(np.ascontiguousarray(points), {"algorithm": _FLANN_SINGLE_TREE})
    indices, squares = tree.knnSearch(np.ascontiguousarray(points), count + 1, params={})
    indices, squares = _without_itself(np.asarray(indices), np.asarray(squares, np.float32))
    return np.ascontiguousarray(indices.T), np.ascontiguousarray(squares.T)


def _medians(values: Float) -> Float:
    """Medians over the last axis, which is kept with length 1.

    For a few hundred values this takes a quarter of the time of `np.median`.
    """
    ordered, count = np.sort(values, axis=-1), values.shape[-1]
    middle = ordered[..., (count - 1) // 2] + ordered[..., count // 2]
    return np.asarray(middle[..., None] / 2, np.float32)


def _without_itself(indices: NDArray[Any], squares: Float) -> tuple[NDArray[Any], Float]:
    """Remove the point itself from its neighbors: (M, k+1) → (M, k), nearest first."""
    rows = np.arange(len(indices))
    if (indices[:, 0] == rows).all():
        return indices[:, 1:], squares[:, 1:]
    own = (indices == rows[:, None]).argmax(1)  # not the first column if points coincide
    order = np.arange(indices.shape[1] - 1)
    others = order + (order >= own[:, None])
    return np.take_along_axis(indices, others, 1), np.take_along_axis(squares, others, 1)


def _solve(moments: Float, prior: Float, ridge: float) -> Float:
    """Solve the weighted normal equations with a ridge on the linear part.

    Args:
        moments: (3, 5, M), normal matrix and its two right-hand sides.
        prior: (2, 2, M), linear part that the ridge pulls toward.
        ridge: relative to the spread of the neighbors.

    Returns:
        (2, 3, M): linear part and offset, for x and y of image 1.
    """
    pull = np.float32(ridge)
    a, b, c = moments[0, 0] + pull, moments[0, 1], moments[0, 2]
    d, e, f = moments[1, 1] + pull, moments[1, 2], moments[2, 2] + np.float32(1e-4)
    right = moments[:, 3:].copy()  # (3, 2, M)
    right[:2] += pull * prior.transpose(1, 0, 2)
    inverse = np.empty((3, 3, moments.shape[2]), np.float32)
    inverse[0, 0] = d * f - e * e
    inverse[0, 1] = inverse[1, 0] = c * e - b * f
    inverse[0, 2] = inverse[2, 0] = b * e - c * d
    inverse[1, 1] = a * f - c * c
    inverse[1, 2] = inverse[2, 1] = b * c - a * e
    inverse[2, 2] = a * d - b * b
    inverse /= a * inverse[0, 0] + b * inverse[0, 1] + c * inverse[0, 2]
    return np.asarray(np.einsum("ijm,jam->aim", inverse, right), np.float32)

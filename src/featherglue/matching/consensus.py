"""Which matches agree with those around them.

Every match is compared with where the local affine map of its nearest matches puts it. A wrong one
is hardly ever where its neighbours would have it, whereas a true one mostly is, on curved and
broken surfaces too: an idea of Bian et al. (GMS, CVPR 2017) and Cavalli et al. (AdaLAM, 2020).

Shape legend: M matches, k neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError

Float = NDArray[np.float32]
Index = NDArray[np.int64]

NEIGHBOURS = 10
# Of these some are wrong themselves; fewer than so many left support nothing.
_ASKED, _FEWEST = 13, 5
_LEAST_TRUST = 0.01
# Residuals (px) beyond which neighbours lose weight, from one round to the next.
_SCALES = (8.0, 4.0)
# Deviations (px) that are borne with, and those residuals: while wrong matches are among the
# neighbours, and afterwards.
_ROUNDS = ((20.0, (32.0, 8.0)), (10.0, _SCALES))
# And, for surfaces are not flat, this share of the neighbours' distance.
_BENT = 0.5
# FLANN's exact search tree; pixels beyond which its distances would overflow.
_SINGLE_TREE, _FARTHEST = 4, 1e9
# Pull towards the median affine map, against the spread of the neighbours; at first towards none.
_RIDGE, _FREE = 0.05, 1e-3


@dataclass(frozen=True, eq=False)
class LocalMaps:
    """What the neighbours of each match say.

    Attributes:
        affine: (M, 2, 2), offsets in image 0 → offsets in image 1.
        offsets: (2, M), px, from each point in image 1 to where its neighbours (without itself) put
            it.
        distance: (M,), px, root mean square of the neighbours' distances in image 0, and about
            that in image 1 by the map's change of area.
    """

    affine: Float
    offsets: Float
    distance: Float

    @property
    def deviation(self) -> Float:
        """(M,), px, how far each match lies from where its neighbours put it."""
        return np.asarray(np.hypot(*self.offsets), np.float32)

    def __getitem__(self, chosen: Index) -> LocalMaps:
        return LocalMaps(self.affine[chosen], self.offsets[:, chosen], self.distance[chosen])


def agreeing(
    points0: Float, points1: Float, scores: Float, sure: float
) -> tuple[Index, LocalMaps | None]:
    """The matches that their neighbours support, or that are sure by themselves.

    Where there are too few to tell, all are kept.

    Args:
        points0, points1: (M, 2) xy pixels. scores: (M,) in [0, 1]. sure: score above which a match
            needs no support.

    Returns:
        indices (N,), rising; what the neighbours say of these, None where there are too few.
    """
    every = np.arange(len(points0))
    if len(every) <= _ASKED:
        return every, None
    around = Surroundings.of(points0, points1, _ASKED)
    good = np.ones(len(every), np.bool_)
    maps = None
    trust = np.maximum(scores, np.float32(_LEAST_TRUST))
    trust /= trust.max()
    for limit, scales in _ROUNDS:
        maps = around.fit(trust * good, scales)
        supported = good[around.near].sum(0) >= _FEWEST
        supported &= maps.deviation < limit + np.float32(_BENT) * maps.distance
        good &= supported | (scores > sure)
        if np.count_nonzero(good) <= _ASKED:
            return np.flatnonzero(good), None
    kept = np.flatnonzero(good)
    return kept, None if maps is None else maps[kept]


def local_maps(points0: Float, points1: Float, neighbours: int = NEIGHBOURS) -> LocalMaps:
    """What the neighbours of each match say, all trusted alike.

    Args:
        points0, points1: (M, 2) xy pixels of more than `neighbours` matches.
    """
    around = Surroundings.of(points0, points1, neighbours)
    return around.fit(np.ones(len(points0), np.float32), _SCALES)


@dataclass(frozen=True, eq=False)
class Surroundings:
    """The nearest matches of each match, seen from there.

    Attributes:
        near: (k, M), which they are.
        spread: (M,), px, root mean square of their distances in image 0.
        parts: (5, k, M): their offsets in image 0 in units of `spread`, 1, those in image 1, px.
    """

    near: NDArray[Any]
    spread: Float
    parts: Float

    @staticmethod
    def of(points0: Float, points1: Float, neighbours: int = NEIGHBOURS) -> Surroundings:
        """See `local_maps`."""
        flat = np.ascontiguousarray(points0)
        near, square = _nearest(flat, neighbours + 1)
        near, square = _without_itself(near, square)
        near = np.ascontiguousarray(near.T)
        spread = np.sqrt(square.mean(1)) + np.float32(1e-3)
        parts = np.ones((5, *near.shape), np.float32)
        for row, values in zip((0, 1, 3, 4), (*points0.T, *points1.T), strict=True):
            np.subtract(np.ascontiguousarray(values)[near], values, out=parts[row])
        parts[:2] /= spread
        return Surroundings(near, spread, parts)

    def fit(self, trust: Float, scales: Sequence[float]) -> LocalMaps:
        """Affine maps from each match's neighbours, by re-weighted least squares.

        Where the neighbours leave a map undetermined (they lie on a line, say) it leans towards
        the median of all maps.

        Args:
            trust: (M,) in [0, 1], how much each counts as a neighbour.
            scales: px, residuals beyond which a neighbour loses weight, from round to round.
        """
        design, target = self.parts[:3], self.parts[3:]
        base = trust[self.near]
        prior = np.zeros((2, 2, len(trust)), np.float32)
        # Unknowns: the linear part in units of `spread`, and the constant that the point is off by.
        solution = _solve(np.einsum("ikm,jkm->ijm", design * base, self.parts), prior, _FREE)
        prior += _medians(solution[:, :2] / self.spread) * self.spread
        for scale in scales:
            residual = target - np.einsum("aim,ikm->akm", solution, design)
            squares = np.square(residual, out=residual)
            weights = base / np.square(1 + (squares[0] + squares[1]) / np.float32(scale**2))
            moments = np.einsum("ikm,jkm->ijm", design * weights, self.parts)
            solution = _solve(moments, prior, _RIDGE)
        linear = solution[:, :2] / self.spread
        area = np.abs(linear[0, 0] * linear[1, 1] - linear[0, 1] * linear[1, 0])
        return LocalMaps(
            affine=np.ascontiguousarray(linear.transpose(2, 0, 1)),
            offsets=np.ascontiguousarray(solution[:, 2]),
            distance=self.spread * np.sqrt(area),
        )


def _nearest(points: Float, count: int) -> tuple[NDArray[Any], Float]:
    """The nearest points of each point (M, count), itself among them unless too many share its
    place, and their squared distances, nearest first."""
    if not np.abs(points).max() < _FARTHEST:
        raise UsageError("keypoints must be finite pixels; there is one that is not")
    tree = cv2.flann.Index(points, {"algorithm": _SINGLE_TREE})
    near, square = tree.knnSearch(points, count, params={})
    return np.asarray(near), np.asarray(square, np.float32)


def _medians(values: Float) -> Float:
    """Medians over the last axis, which stays with length 1; `np.median` takes four times as long
    for a few hundred values."""
    ordered, count = np.sort(values, axis=-1), values.shape[-1]
    middle = ordered[..., (count - 1) // 2] + ordered[..., count // 2]
    return np.asarray(middle[..., None] / 2, np.float32)


def _without_itself(near: NDArray[Any], square: Float) -> tuple[NDArray[Any], Float]:
    """Neighbours (M, k+1) and squared distances without the point itself (M, k), nearest first."""
    rows = np.arange(len(near))
    if (near[:, 0] == rows).all():
        return near[:, 1:], square[:, 1:]
    own = (near == rows[:, None]).argmax(1)  # not the first where several share a place
    order = np.arange(near.shape[1] - 1)
    others = order + (order >= own[:, None])
    return np.take_along_axis(near, others, 1), np.take_along_axis(square, others, 1)


def _solve(moments: Float, prior: Float, pull: float) -> Float:
    """Solve weighted normal equations with a pull of the linear part towards a prior.

    Args:
        moments: (3, 5, M), the normal matrix and its two right-hand sides.
        prior: (2, 2, M). pull: against the spread of the neighbours.

    Returns:
        (2, 3, M): for x and y of image 1, the linear part and the constant.
    """
    ridge = np.float32(pull)
    a, b, c = moments[0, 0] + ridge, moments[0, 1], moments[0, 2]
    d, e, f = moments[1, 1] + ridge, moments[1, 2], moments[2, 2] + np.float32(1e-4)
    right = moments[:, 3:].copy()  # (3, 2, M)
    right[:2] += ridge * prior.transpose(1, 0, 2)
    inverse = np.empty((3, 3, moments.shape[2]), np.float32)
    inverse[0, 0] = d * f - e * e
    inverse[0, 1] = inverse[1, 0] = c * e - b * f
    inverse[0, 2] = inverse[2, 0] = b * e - c * d
    inverse[1, 1] = a * f - c * c
    inverse[1, 2] = inverse[2, 1] = b * c - a * e
    inverse[2, 2] = a * d - b * b
    inverse /= a * inverse[0, 0] + b * inverse[0, 1] + c * inverse[0, 2]
    return np.asarray(np.einsum("ijm,jam->aim", inverse, right), np.float32)

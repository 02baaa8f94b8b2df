"""One position of each keypoint from the alignments of all its matches.

Each match of keypoint i of image a with keypoint j of image b has a local affine map A and an
offset o (see `match_alignment`). It states that the displacements d of both keypoints from their
detected positions satisfy d_j − A·d_i = o. The displacements of all keypoints together are the
solution of a sparse least-squares problem. It is weighted by the information matrices of the
offsets and by the Cauchy weights of the residuals (iteratively re-weighted least squares), and
damped by a weak prior of zero. No image is read. Dusmanu et al. 2020 (Multi-View Optimization of
Local Feature Geometry) solve a similar problem with flow that a network predicts.

Shape legend: K keypoints of all images, E matches with an alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import MissingExtraError

Float = NDArray[np.float64]
Index = NDArray[np.int64]

_TOLERANCE, _MAX_ITERATIONS = 1e-3, 100  # of the conjugate gradients


@dataclass(frozen=True, kw_only=True)
class AdjustmentConfig:
    """Settings of the track adjustment.

    Attributes:
        prior: px, standard deviation of the displacements before the matches are seen.
        scale: px, residual that reduces a weight to a half.
        num_reweightings: number of solutions with new weights.
        max_residual: px, matches with a larger residual are rejected.
        max_displacement: px, keypoints that would move further stay.
    """

    prior: float = 1.0
    scale: float = 0.5
    num_reweightings: int = 8
    max_residual: float = 2.0
    max_displacement: float = 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Equations:
    """The matches of all pairs.

    Attributes:
        first, second: (E,) number of the keypoint in image a and in image b, of all keypoints.
        affine: (E, 2, 2) linear part of the local map from a to b.
        offsets: (E, 2), px of image b.
        information: (E, 2, 2), px⁻².
    """

    first: Index
    second: Index
    affine: Float
    offsets: Float
    information: Float

    @staticmethod
    def of(parts: Iterable[tuple[Index, Index, NDArray[Any]]]) -> Equations:
        """Collect the matches of pairs.

        Args:
            parts: for each pair, numbers (M,) of both keypoints and the array `alignment` (M, 9).
                Matches without an alignment are left out.
        """
        firsts, seconds, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros((0, 9))]
        for first, second, alignment in parts:
            kept = np.isfinite(alignment).all(1)
            firsts.append(first[kept])
            seconds.append(second[kept])
            rows.append(alignment[kept].astype(np.float64))
        table = np.concatenate(rows)
        return Equations(
            first=np.concatenate(firsts),
            second=np.concatenate(seconds),
            affine=table[:, :4].reshape(-1, 2, 2),
            offsets=table[:, 4:6],
            information=table[:, [6, 8, 8, 7]].reshape(-1, 2, 2),
        )

    def residuals(self, displacements: Float) -> Float:
        """(E, 2), px of image b: d_j − A·d_i − o."""
        moved = np.einsum("eij,ej->ei", self.affine, displacements[self.first])
        return np.asarray(displacements[self.second] - moved - self.offsets)


@dataclass(frozen=True, kw_only=True, eq=False)
class Adjustment:
    """The result of a track adjustment.

    Attributes:
        displacements: (K, 2) px of the working frames.
        residuals: (E,) px, of the matches with an alignment.
        rejected: (E,) bool, matches that contradict the others.
    """

    displacements: Float
    residuals: Float
    rejected: NDArray[np.bool_]


def adjust_tracks(
    equations: Equations, num_keypoints: int, config: AdjustmentConfig | None = None
) -> Adjustment:
    """Solve for the displacements of all keypoints.

    Args:
        equations: the matches.
        num_keypoints: K.
        config: settings; None uses the defaults.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    config = config or AdjustmentConfig()
    everything = np.zeros((num_keypoints, 2))
    matched, numbers = np.unique(
        np.concatenate([equations.first, equations.second]), return_inverse=True
    )
    first, second = np.split(numbers, 2)
    equations = replace(equations, first=first, second=second)  # of the matched keypoints only
    system = _NormalEquations(equations, len(matched), config.prior)
    displacements = np.zeros((len(matched), 2))
    weights = np.ones(len(equations.first))
    for _ in range(config.num_reweightings):
        displacements = system.solve(weights, displacements)
        residuals = np.linalg.norm(equations.residuals(displacements), axis=1)
        weights = 1 / (1 + np.square(residuals / config.scale))
    far = np.linalg.norm(displacements, axis=1) > config.max_displacement
    displacements[far] = 0
    residuals = np.linalg.norm(equations.residuals(displacements), axis=1)
    everything[matched] = displacements
    return Adjustment(
        displacements=everything,
        residuals=residuals,
        rejected=residuals > config.max_residual,
    )


class _NormalEquations:
    """The normal equations of the weighted squares, with 2×2 blocks.

    The derivative of a residual is I for the second keypoint and −A for the first one. Two
    keypoints share one match at most, so a match has one block on each side of the diagonal.
    """

    def __init__(self, equations: Equations, num_keypoints: int, prior: float) -> None:
        self._sparse = _scipy_sparse()
        self._equations, self._count = equations, num_keypoints
        self._pull = np.eye(2) * prior**-2
        back = equations.affine.transpose(0, 2, 1)
        self._mixed = -back @ equations.information  # derivative by the first and the second
        self._first = -self._mixed @ equations.affine
        self._second = equations.information
        self._target = (self._second @ equations.offsets[..., None])[..., 0]
        self._mixed_target = (self._mixed @ equations.offsets[..., None])[..., 0]
        every = np.arange(num_keypoints)
        rows = np.concatenate([equations.first, equations.second, every])
        columns = np.concatenate([equations.second, equations.first, every])
        self._order = np.lexsort((columns, rows))
        self._columns = columns[self._order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=num_keypoints))])

    def solve(self, weights: Float, start: Float) -> Float:
        """Displacements (K, 2) by conjugate gradients, preconditioned by the diagonal blocks.

        Args:
            weights: (E,) of the matches.
            start: (K, 2), first estimate.
        """
        mixed = self._mixed * weights[:, None, None]
        diagonal = self._sum(self._first, self._second, weights) + self._pull
        blocks = np.concatenate([mixed, mixed.transpose(0, 2, 1), diagonal])[self._order]
        size = 2 * self._count
        matrix = self._sparse.bsr_matrix(
            (np.ascontiguousarray(blocks), self._columns, self._starts), (size, size)
        )
        target = self._sum(self._mixed_target, self._target, weights)

        def multiply(vector: Float) -> Float:
            return np.asarray((matrix @ vector.ravel()).reshape(-1, 2))

        return _conjugate_gradients(multiply, _inverses(diagonal), target, start)

    def _sum(self, first: Float, second: Float, weights: Float) -> Float:
        """Weighted sums (K, …) over the matches of each keypoint, of values (E, …)."""
        shape = first.shape[1:]
        total = np.empty((self._count, *shape))
        for entry in np.ndindex(shape):
            at = (slice(None), *entry)
            total[at] = np.bincount(
                self._equations.first, first[at] * weights, self._count
            ) + np.bincount(self._equations.second, second[at] * weights, self._count)
        return total


def _inverses(matrices: Float) -> Float:
    """The inverses of symmetric positive definite matrices (K, 2, 2)."""
    xx, xy, yy = matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 1]
    return np.stack((yy, -xy, -xy, xx), 1).reshape(-1, 2, 2) / (xx * yy - xy * xy)[:, None, None]


def _conjugate_gradients(
    multiply: Callable[[Float], Float], inverse: Float, target: Float, start: Float
) -> Float:
    """Solve a positive definite system (Hestenes and Stiefel 1952).

    Args:
        multiply: the product of the matrix with a vector (K, 2).
        inverse: (K, 2, 2), inverse diagonal blocks of the matrix.
        target: (K, 2), right-hand side.
        start: (K, 2), first estimate.
    """
    solution = start.copy()
    first, second = np.ascontiguousarray(inverse[..., 0]), np.ascontiguousarray(inverse[..., 1])

    def precondition(vector: Float) -> Float:
        return first * vector[:, :1] + second * vector[:, 1:]

    residual = target - multiply(solution)
    direction = scaled = precondition(residual)
    product = float((residual * scaled).sum())
    limit = _TOLERANCE**2 * float((target * precondition(target)).sum())
    for _ in range(_MAX_ITERATIONS):
        if product <= limit:
            break
        mapped = multiply(direction)
        step = product / float((direction * mapped).sum())
        solution += step * direction
        residual -= step * mapped
        scaled = precondition(residual)
        before, product = product, float((residual * scaled).sum())
        direction = scaled + product / before * direction
    return solution


def _scipy_sparse() -> Any:
    try:
        from scipy import sparse
    except ModuleNotFoundError:
        raise MissingExtraError("the track adjustment", "sfm") from None
    return sparse

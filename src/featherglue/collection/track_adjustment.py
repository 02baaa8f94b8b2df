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

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import MissingExtraError

Float = NDArray[np.float64]
Index = NDArray[np.int64]


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
    jacobian = _jacobian(equations, num_keypoints)
    displacements = np.zeros((num_keypoints, 2))
    weights = np.ones(len(equations.first))
    for _ in range(config.num_reweightings):
        information = equations.information * weights[:, None, None]
        displacements = _solve(equations, jacobian, information, displacements, config.prior)
        residuals = np.linalg.norm(equations.residuals(displacements), axis=1)
        weights = 1 / (1 + np.square(residuals / config.scale))
    far = np.linalg.norm(displacements, axis=1) > config.max_displacement
    displacements[far] = 0
    residuals = np.linalg.norm(equations.residuals(displacements), axis=1)
    return Adjustment(
        displacements=displacements,
        residuals=residuals,
        rejected=residuals > config.max_residual,
    )


def _jacobian(equations: Equations, num_keypoints: int) -> Any:
    """(2·E, 2·K) sparse: the derivative of the residuals."""
    sparse = _scipy_sparse()
    count = len(equations.first)
    rows = np.repeat(np.arange(2 * count).reshape(-1, 2, 1), 3, 2)
    columns = np.empty((count, 2, 3), np.int64)
    values = np.ones((count, 2, 3))
    columns[:, :, 0] = 2 * equations.second[:, None] + np.arange(2)
    columns[:, :, 1:] = 2 * equations.first[:, None, None] + np.arange(2)
    values[:, :, 1:] = -equations.affine
    return sparse.csr_matrix(
        (values.ravel(), (rows.ravel(), columns.ravel())), (2 * count, 2 * num_keypoints)
    )


def _solve(
    equations: Equations, jacobian: Any, information: Float, start: Float, prior: float
) -> Float:
    """Minimize the weighted squares by preconditioned conjugate gradients."""
    from scipy.sparse.linalg import LinearOperator, cg

    size = start.size
    transposed = jacobian.T.tocsr()
    pull = prior**-2

    def multiply(vector: Float) -> Float:
        residuals = (jacobian @ vector).reshape(-1, 2, 1)
        return np.asarray(transposed @ (information @ residuals).ravel() + pull * vector)

    blocks = _diagonal_blocks(equations, information, len(start)) + pull * np.eye(2)
    inverse = np.linalg.inv(blocks)

    def precondition(vector: Float) -> Float:
        return (inverse @ vector.reshape(-1, 2, 1)).ravel()

    target = transposed @ (information @ equations.offsets[..., None]).ravel()
    solution, _ = cg(
        LinearOperator((size, size), multiply, dtype=np.float64),
        target,
        x0=start.ravel(),
        rtol=1e-4,
        maxiter=50,
        M=LinearOperator((size, size), precondition, dtype=np.float64),
    )
    return np.asarray(solution.reshape(-1, 2))


def _diagonal_blocks(equations: Equations, information: Float, num_keypoints: int) -> Float:
    """(K, 2, 2): the blocks of the normal matrix on its diagonal."""
    mapped = equations.affine.transpose(0, 2, 1) @ information @ equations.affine
    blocks = np.empty((num_keypoints, 2, 2))
    for i in range(2):
        for j in range(2):
            blocks[:, i, j] = np.bincount(
                equations.second, information[:, i, j], num_keypoints
            ) + np.bincount(equations.first, mapped[:, i, j], num_keypoints)
    return blocks


def _scipy_sparse() -> Any:
    try:
        from scipy import sparse
    except ModuleNotFoundError:
        raise MissingExtraError("the track adjustment", "sfm") from None
    return sparse

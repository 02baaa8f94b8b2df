"""Results of two-view estimation: `Homography`, `FundamentalMatrix` and `RelativePose`.

All of them have the fields `model` (3×3), `inliers` and `num_inliers`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featherglue.geometry.epipolar import essential_matrix

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _Estimate:
    inliers: Mask

    @property
    def num_inliers(self) -> int:
        """Number of inliers."""
        return int(np.count_nonzero(self.inliers))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_inliers} of {len(self.inliers)} matches are inliers)"
        )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class _MatrixEstimate(_Estimate):
    model: Matrix

    def __iter__(self) -> Iterator[NDArray[Any]]:
        """Unpack as `model, inliers`; deprecated, use the fields."""
        name = type(self).__name__
        warnings.warn(
            f"unpacking a {name} is deprecated and ends with version 0.3; "
            "use its fields model and inliers",
            DeprecationWarning,
            stacklevel=2,
        )
        return iter((self.model, self.inliers))


class Homography(_MatrixEstimate):
    """A homography from image 0 to image 1.

    Attributes:
        model: (3, 3) float64 H_0to1 with H[2, 2] = 1. It maps (x, y, 1) of image 0 to image 1.
        inliers: (M,) bool, matches within the threshold.
    """


class FundamentalMatrix(_MatrixEstimate):
    """A fundamental matrix.

    Attributes:
        model: (3, 3) float64 F of rank 2 and norm 1, with x1ᵀ·F·x0 = 0 for pixels x0 and x1.
        inliers: (M,) bool, matches within the threshold.
    """


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RelativePose(_Estimate):
    """The pose of camera 1 relative to camera 0: X1 = R·X0 + t.

    Attributes:
        R: (3, 3) float64, rotation from camera 0 to camera 1.
        t: (3,) float64, direction of the translation, of length 1.
        inliers: (M,) bool, matches within the threshold and in front of both cameras.
    """

    R: Matrix
    t: Matrix

    @property
    def model(self) -> Matrix:
        """(3, 3) float64, essential matrix E = [t]×·R, with x1ᵀ·E·x0 = 0 for rays x0 and x1."""
        return essential_matrix(self.R, self.t)

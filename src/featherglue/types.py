"""Results of the pipeline: `Features`, `Matches` and `MatchResult`.

All data are NumPy arrays. Points are (x, y) pixels in the coordinates of the image that the user
gave; the center of the top-left pixel is (0, 0).

Shape legend: N keypoints, D descriptor width, M matches, H×W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featherglue.errors import UsageError, counted
from featherglue.geometry.estimates import FundamentalMatrix, Homography, RelativePose
from featherglue.geometry.estimation import (
    estimate_fundamental,
    estimate_homography,
    estimate_relative_pose,
)
from featherglue.io.files import write_npz

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Features:
    """Keypoints of one image with their descriptors, strongest first.

    Attributes:
        keypoints: (N, 2) float32, (x, y) pixels.
        scores: (N,) float32 in [0, 1].
        descriptors: (N, D) float32, L2-normalized.
        image_size: (width, height) of the image.
        image: (H, W) uint8, the gray image, which the refinement of matches needs; None disables
            the refinement.
        mask: (H, W) uint8, 0 where keypoints are ignored; None if they are allowed everywhere. A
            search finds no other keypoints there.

    Raises:
        UsageError: an array has another shape or dtype, or `image_size` is not positive.
    """

    keypoints: Float
    scores: Float
    descriptors: Float
    image_size: tuple[int, int]
    image: NDArray[np.uint8] | None = None
    mask: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        for name in ("keypoints", "scores", "descriptors"):
            _check_array(name, getattr(self, name), np.float32)
        count = self.keypoints.shape[0] if self.keypoints.ndim else 0
        _check_shape("keypoints", self.keypoints, (count, 2))
        _check_shape("scores", self.scores, (count,))
        if self.descriptors.ndim != 2 or len(self.descriptors) != count:
            raise UsageError(f"descriptors must be ({count}, D), not {self.descriptors.shape}")
        for name in ("keypoints", "scores", "descriptors"):
            _check_finite(name, getattr(self, name))
        _check_size(self.image_size)
        for name in ("image", "mask"):
            pixels = getattr(self, name)
            if pixels is not None:
                _check_array(name, pixels, np.uint8)
                _check_shape(name, pixels, tuple(self.image_size)[::-1])

    def __len__(self) -> int:
        return len(self.keypoints)

    def __repr__(self) -> str:
        width, height = self.image_size
        size = f"{self.descriptors.shape[1]}-d, {width}×{height}"
        return f"Features({counted(len(self), 'keypoint')}, {size})"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Matches:
    """Pairs of keypoints that show the same point of the scene.

    Attributes:
        indices: (M, 2) int64 indices into the keypoints of image 0 and of image 1.
        scores: (M,) float32 confidence in [0, 1].
        points0: (M, 2) float32, (x, y) pixels in image 0: the keypoints.
        points1: (M, 2) float32, (x, y) pixels in image 1: the keypoints, or more accurate places
            by subpixel refinement and by the geometry of all matches.
        refined: (M,) bool, whether the images were aligned at the match.

    Raises:
        UsageError: an array has another shape.
    """

    indices: Index
    scores: Float
    points0: Float
    points1: Float
    refined: Mask

    def __post_init__(self) -> None:
        kinds = {
            "indices": np.integer,
            "scores": np.floating,
            "points0": np.floating,
            "points1": np.floating,
            "refined": np.bool_,
        }
        for name, kind in kinds.items():
            _check_array(name, getattr(self, name), kind)
        count = self.indices.shape[0] if self.indices.ndim else 0
        for name in ("indices", "points0", "points1"):
            _check_shape(name, getattr(self, name), (count, 2))
        for name in ("scores", "refined"):
            _check_shape(name, getattr(self, name), (count,))
        for name in ("scores", "points0", "points1"):
            _check_finite(name, getattr(self, name))
        if count and self.indices.min() < 0:
            raise UsageError("indices must be at least 0")

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        refined = int(np.count_nonzero(self.refined))
        return f"Matches({counted(len(self), 'match', 'matches')}, {refined} refined)"


@dataclass(frozen=True, kw_only=True)
class SearchInfo:
    """Outcome of a search over rotation and scale.

    Rotation and scale are those of the matches. They mean nothing if the matches are wrong: check
    that `MatchResult.fundamental` finds a geometry.

    Attributes:
        rotation: degrees in (−180, 180] by which image 1 is rotated clockwise against image 0.
        scale: pixels of image 1 per pixel of image 0.
        warps: number of times that an image was warped by an estimated homography; 0 also if the
            images were only matched again with more keypoints.
    """

    rotation: float
    scale: float
    warps: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class MatchResult:
    """The features of two images and the matches between them.

    Attributes:
        features0: of image 0.
        features1: of image 1.
        matches: between `features0` and `features1`.
        milliseconds: time by stage, in the order of the stages.
        search: outcome of the search over rotation and scale; None without one.
    """

    features0: Features
    features1: Features
    matches: Matches
    milliseconds: dict[str, float] = field(default_factory=dict)
    search: SearchInfo | None = None

    def __post_init__(self) -> None:
        counts = len(self.features0), len(self.features1)
        indices = self.matches.indices
        for i, count in enumerate(counts):
            if len(indices) and indices[:, i].max() >= count:
                raise UsageError(
                    f"indices must be below the number of keypoints of features{i}, {count}"
                )

    def __repr__(self) -> str:
        keypoints = f"{len(self.features0)} and {len(self.features1)} keypoints"
        duration = f", {sum(self.milliseconds.values()):.1f} ms" if self.milliseconds else ""
        matches = counted(len(self.matches), "match", "matches")
        return f"MatchResult({matches} of {keypoints}{duration})"

    def homography(self, threshold: float = 3.0, seed: int = 0) -> Homography:
        """Estimate the homography from image 0 to image 1 by MAGSAC++ and local optimization.

        Args:
            threshold: px, maximum distance of an inlier in image 1.
            seed: seed of the samples; the same matches and seed give the same result.

        Raises:
            EstimationError: no homography has more inliers than chance gives.
            UsageError: `threshold` is not positive.

        See `geometry.estimate_homography` for all parameters.
        """
        points0, points1 = self.matches.points0, self.matches.points1
        size1 = self.features1.image_size
        return estimate_homography(points0, points1, threshold=threshold, seed=seed, size1=size1)

    def fundamental(self, threshold: float = 2.0, seed: int = 0) -> FundamentalMatrix:
        """Estimate the fundamental matrix by MAGSAC++ and local optimization.

        Args:
            threshold: px, maximum Sampson distance of an inlier.
            seed: seed of the samples; the same matches and seed give the same result.

        Raises:
            EstimationError: no fundamental matrix has more inliers than chance gives.
            UsageError: `threshold` is not positive.

        See `geometry.estimate_fundamental` for all parameters.
        """
        points0, points1 = self.matches.points0, self.matches.points1
        size1 = self.features1.image_size
        return estimate_fundamental(points0, points1, threshold=threshold, seed=seed, size1=size1)

    def relative_pose(
        self, K0: ArrayLike, K1: ArrayLike, threshold: float = 1.0, seed: int = 0
    ) -> RelativePose:
        """Estimate the pose of camera 1 relative to camera 0 by RANSAC and local optimization.

        Args:
            K0, K1: (3, 3) intrinsics in px, with pixel centers at integer coordinates.
            threshold: px, maximum Sampson distance of an inlier.
            seed: has no effect on RANSAC, which always draws the same samples.

        Raises:
            EstimationError: no pose has more inliers than chance gives.
            UsageError: `threshold`, `K0` or `K1` is invalid.

        See `geometry.estimate_relative_pose` for all parameters.
        """
        points0, points1 = self.matches.points0, self.matches.points1
        return estimate_relative_pose(
            points0,
            points1,
            K0,
            K1,
            threshold=threshold,
            seed=seed,
            size1=self.features1.image_size,
        )

    def save(
        self, path: str | os.PathLike[str], extra: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Write the matches as an npz file in SuperGlue's format.

        It has `keypoints0` (N0, 2), `keypoints1` (N1, 2), `matches` (N0,) int64 indices into
        `keypoints1` or −1, and `match_confidence` (N0,). Beside them are the arrays of `Matches`:
        `indices`, `points0`, `points1` and `refined`.

        Args:
            path: the file; its folder is created.
            extra: further arrays by name.

        Raises:
            OutputError: the file cannot be written. No partial file is left.
        """
        partner = np.full(len(self.features0), -1, np.int64)
        confidence = np.zeros(len(self.features0), np.float32)
        partner[self.matches.indices[:, 0]] = self.matches.indices[:, 1]
        confidence[self.matches.indices[:, 0]] = self.matches.scores
        write_npz(
            path,
            {
                "keypoints0": self.features0.keypoints,
                "keypoints1": self.features1.keypoints,
                "matches": partner,
                "match_confidence": confidence,
                "indices": self.matches.indices,
                "points0": self.matches.points0,
                "points1": self.matches.points1,
                "refined": self.matches.refined,
                **(extra or {}),
            },
        )


def _check_array(name: str, value: Any, dtype: type[np.generic]) -> None:
    """Raise UsageError unless the value is an array of this dtype or kind of dtypes."""
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{name} must be a NumPy array, not {type(value).__name__}")
    if not np.issubdtype(value.dtype, dtype):
        kind = dtype.__name__ if dtype in (np.integer, np.floating) else str(np.dtype(dtype))
        raise UsageError(f"{name} must be {kind}, not {value.dtype}")


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array.sum(dtype=np.float64)):  # faster than a test of each element
        raise UsageError(f"{name} must be finite")


def _check_size(size: Any) -> None:
    valid = isinstance(size, (tuple, list)) and len(size) == 2
    if not (valid and all(isinstance(side, (int, np.integer)) and side >= 1 for side in size)):
        raise UsageError(f"image_size must be (width, height), at least 1 each, not {size!r}")


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise UsageError(f"{name} must be {shape}, not {array.shape}")

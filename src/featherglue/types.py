"""The values that flow through featherglue: Features, Matches, MatchResult. NumPy in, NumPy out.

Points are (x, y) pixels in the coordinates of the image that the user gave; the centre of the
top-left pixel is (0, 0).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError

if TYPE_CHECKING:
    from featherglue.geometry.estimation import RelativePose

Float = NDArray[np.float32]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise UsageError(message)


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Keypoints of one image, strongest first.

    Attributes:
        keypoints: (N, 2) float32 xy pixels.
        scores: (N,) float32 in [0, 1].
        descriptors: (N, D) float32, L2-normalised.
        image_size: (width, height) of the image.
        image: the grey image (H, W) uint8, by which matches are refined; None to do without.
    """

    keypoints: Float
    scores: Float
    descriptors: Float
    image_size: tuple[int, int]
    image: NDArray[np.uint8] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        count = len(self.keypoints)
        _check(self.keypoints.shape == (count, 2), "keypoints must be (N, 2)")
        _check(self.scores.shape == (count,), f"scores must be ({count},)")
        _check(
            self.descriptors.ndim == 2 and len(self.descriptors) == count,
            f"descriptors must be ({count}, D)",
        )
        for name in ("keypoints", "scores", "descriptors"):
            _check(getattr(self, name).dtype == np.float32, f"{name} must be float32")
        _check(min(self.image_size) >= 1, "image_size is (width, height), at least 1 each")
        if self.image is not None:
            _check(
                self.image.shape == self.image_size[::-1] and self.image.dtype == np.uint8,
                "image must be (H, W) uint8 and agree with image_size",
            )

    def __len__(self) -> int:
        return len(self.keypoints)


@dataclass(frozen=True, kw_only=True, eq=False)
class Matches:
    """Pairs of keypoints that show the same point.

    Attributes:
        indices: (M, 2) int64 into the keypoints of both images.
        scores: (M,) float32 confidence in [0, 1].
        points0, points1: (M, 2) float32 xy pixels; where `refined`, points1 has been aligned to
            a fraction of a pixel and differs from the keypoint.
        refined: (M,) bool.
    """

    indices: Index
    scores: Float
    points0: Float
    points1: Float
    refined: Mask

    def __post_init__(self) -> None:
        count = len(self.indices)
        for name in ("indices", "points0", "points1"):
            _check(getattr(self, name).shape == (count, 2), f"{name} must be ({count}, 2)")
        for name in ("scores", "refined"):
            _check(getattr(self, name).shape == (count,), f"{name} must be ({count},)")

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchResult:
    """Two images matched.

    Attributes:
        features0, features1: of the two images.
        matches: between them.
        milliseconds: time by stage, in the order in which the stages ran.
    """

    features0: Features
    features1: Features
    matches: Matches
    milliseconds: dict[str, float] = field(default_factory=dict)

    def homography(self, threshold: float = 3.0, seed: int = 0) -> tuple[NDArray[np.float64], Mask]:
        """H_0to1 (3, 3) that maps points of image 0 to image 1, and the inliers (M,) bool.

        By MAGSAC++, fitted anew to all matches that agree: see `geometry.estimate_homography`. The
        same matches and seed give the same result.

        Raises:
            EstimationError: fewer than four matches, or no homography that they support.
        """
        from featherglue.geometry.estimation import estimate_homography

        return estimate_homography(
            self.matches.points0, self.matches.points1, threshold=threshold, seed=seed
        )

    def fundamental(
        self, threshold: float = 2.0, seed: int = 0
    ) -> tuple[NDArray[np.float64], Mask]:
        """Fundamental matrix (3, 3) and the inliers (M,).

        By MAGSAC++, fitted anew to all matches that agree: see `geometry.estimate_fundamental`.

        Raises:
            EstimationError: fewer than eight matches, or no epipolar geometry that they support.
        """
        from featherglue.geometry.estimation import estimate_fundamental

        return estimate_fundamental(
            self.matches.points0, self.matches.points1, threshold=threshold, seed=seed
        )

    def relative_pose(
        self,
        K0: NDArray[np.float64],
        K1: NDArray[np.float64],
        threshold: float = 1.0,
        seed: int = 0,
    ) -> RelativePose:
        """Rotation and direction of translation from camera 0 to camera 1.

        By RANSAC, which draws the same samples whatever `seed` is, fitted anew to all matches that
        agree: see `geometry.estimate_relative_pose`.

        Raises:
            EstimationError: fewer than five matches, or no pose that they support.
        """
        from featherglue.geometry.estimation import estimate_relative_pose

        matches = self.matches
        return estimate_relative_pose(
            matches.points0, matches.points1, K0, K1, threshold=threshold, seed=seed
        )

    def save(
        self, path: str | os.PathLike[str], extra: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Write keypoints0, keypoints1, matches and match_confidence as SuperGlue's npz does.

        `matches` (N0,) int64 is −1 where there is none; refined points are kept beside them as
        `points0`, `points1`, `refined`, and the arrays of `extra` under their names.

        Raises:
            OutputError: the file cannot be written. Nothing half-written stays.
        """
        from featherglue.io.files import write_npz

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

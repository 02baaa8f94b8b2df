"""Small textured images, and a matcher that uses the true homography."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.types import Features, Matches, MatchResult

Array = NDArray[Any]


def texture(seed: int, size: tuple[int, int] = (160, 120)) -> NDArray[np.uint8]:
    """Blobs of several sizes, (H, W) uint8."""
    rng = np.random.default_rng(seed)
    image = np.zeros(size[::-1], np.float32)
    for sigma in (1.5, 3.0, 6.0):
        noise = rng.standard_normal(size[::-1], np.float32)
        image += sigma * cv2.GaussianBlur(noise, (0, 0), sigma)
    return np.asarray(cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX), np.uint8)


def project(points: Array, H: Array) -> Array:
    """Project points one at a time, independently of the code under test."""
    mapped = [H @ (x, y, 1.0) for x, y in points]
    return np.array([(m[0] / m[2], m[1] / m[2]) for m in mapped]).reshape(-1, 2)


class Oracle:
    """Detects the same points in every image and matches those within 3 px under H.

    The matched points of image 1 are exact.
    """

    def __init__(self, H: Array, count: int = 150, name: str = "oracle") -> None:
        self.H, self.count, self.extractions = H, count, 0
        self.description = {"name": name, "extractor": {"count": count}}

    def extract(self, image: NDArray[np.uint8]) -> Features:
        self.extractions += 1
        height, width = image.shape
        places = np.random.default_rng(7).uniform(0, 1, (self.count, 2))
        count = self.count if image.std() > 0 else 0
        return Features(
            keypoints=(places[:count] * (width - 1, height - 1)).astype(np.float32),
            scores=np.ones(count, np.float32),
            descriptors=np.ones((count, 1), np.float32),
            image_size=(width, height),
            image=image,
        )

    def match(self, features0: Features, features1: Features) -> MatchResult:
        projected = project(features0.keypoints, self.H)
        gaps = np.linalg.norm(projected[:, None] - features1.keypoints[None], axis=2)
        pairs = [
            (i, j)
            for i in range(len(features0))
            for j in range(len(features1))
            if gaps[i, j] <= 3 and gaps[i].argmin() == j and gaps[:, j].argmin() == i
        ]
        indices = np.array(pairs, np.int64).reshape(-1, 2)
        matches = Matches(
            indices=indices,
            scores=np.ones(len(indices), np.float32),
            points0=features0.keypoints[indices[:, 0]],
            points1=projected[indices[:, 0]].astype(np.float32),
            refined=np.ones(len(indices), np.bool_),
        )
        return MatchResult(features0=features0, features1=features1, matches=matches)


def write_sequence(folder: Path, H: Array, seed: int, size: tuple[int, int] = (160, 120)) -> None:
    """Write a sequence of HPatches. Images 2 to 6 are image 1, warped by H."""
    folder.mkdir(parents=True)
    image = texture(seed, size)
    cv2.imwrite(str(folder / "1.ppm"), cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))
    warped = cv2.cvtColor(cv2.warpPerspective(image, H, size), cv2.COLOR_GRAY2BGR)
    for k in range(2, 7):
        cv2.imwrite(str(folder / f"{k}.ppm"), warped)
        np.savetxt(folder / f"H_1_{k}", H)


def pair_line(
    name0: str, name1: str, K: Array, T: Array, rotations: tuple[int, int] = (0, 0)
) -> str:
    """A line of a pair list with 38 tokens."""
    numbers = " ".join(f"{value:.12g}" for matrix in (K, K, T) for value in matrix.ravel())
    return f"{name0} {name1} {rotations[0]} {rotations[1]} {numbers}\n"

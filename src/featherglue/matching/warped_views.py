"""Resized, rotated and warped versions of an image, with the mapping back to its pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray
from featherglue.matching.keypoint_mask import is_allowed
from featherglue.types import Features

Float = NDArray[np.float32]
Matrix = NDArray[np.floating]
_CELL, _CONTEXT = 8, 16  # px: cell of the networks; border of an image that keypoints depend on
_MIN_SIDE = 32  # px, of the part of a view that is extracted


@dataclass(frozen=True, eq=False)
class View:
    """A warped version of an image.

    Attributes:
        image: (h, w) uint8.
        original: (H, W) uint8.
        to_original: (3, 3), homography from pixels of `image` to those of `original`.
    """

    image: Gray
    original: Gray
    to_original: Matrix

    @property
    def from_original(self) -> Matrix:
        """(3, 3), homography from pixels of `original` to those of `image`."""
        return np.linalg.inv(self.to_original)

    @staticmethod
    def resized(image: Gray, factor: float, turns: int) -> View:
        """An image shrunk by a factor, then rotated.

        Args:
            image: (H, W) uint8.
            factor: factor of both sides; 1 or more keeps the size.
            turns: number of quarter turns counter-clockwise.
        """
        if factor >= 1 and turns == 0:
            return View(image, image, np.eye(3))
        small = shrink(image, factor)
        height, width = small.shape
        grow = _resize_matrix((width, height), (image.shape[1], image.shape[0]))
        turned = np.ascontiguousarray(np.rot90(small, turns))
        unturn = {
            0: np.eye(3),
            1: np.array([[0, -1, width - 1], [1, 0, 0], [0, 0, 1.0]]),
            2: np.array([[-1, 0, width - 1], [0, -1, height - 1], [0, 0, 1.0]]),
            3: np.array([[0, 1, 0], [-1, 0, height - 1], [0, 0, 1.0]]),
        }[turns % 4]
        return View(turned, image, grow @ unturn)

    @staticmethod
    def warped(image: Gray, H: Matrix, shape: tuple[int, ...]) -> View:
        """An image warped by a homography.

        The image is first shrunk by about the scale of H, to avoid aliasing.

        Args:
            image: (H, W) uint8.
            H: (3, 3), from its pixels to those of the view.
            shape: (height, width) of the view.
        """
        inverse = np.linalg.inv(H)
        middle = cv2.perspectiveTransform(
            np.array([[[shape[1] / 2, shape[0] / 2]]], np.float64), inverse
        )[0, 0]
        ratio = local_scale(H, np.clip(middle, 0, image.shape[::-1]))
        small = shrink(image, min(1.0, ratio * 1.2))
        size = (image.shape[1], image.shape[0])
        grow = _resize_matrix((small.shape[1], small.shape[0]), size)
        view = View(np.zeros(shape, np.uint8), image, inverse)
        left, top, right, bottom = view.box
        shift = np.array([[1, 0, -left], [0, 1, -top], [0, 0, 1]])
        view.image[top:bottom, left:right] = cv2.warpPerspective(
            small,
            shift @ H @ grow,
            (right - left, bottom - top),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        return view

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the part of `image` that shows the original, px.

        It is a little larger than that part, and starts at a cell of the networks.
        """
        height, width = self.image.shape
        full = (0, 0, width, height)
        rows, columns = self.original.shape
        corners = np.array([[0, 0, 1], [columns, 0, 1], [0, rows, 1], [columns, rows, 1.0]])
        x, y, w = self.from_original @ corners.T
        if not (abs(w).min() > 1e-9 and (w > 0).all() | (w < 0).all()):
            return full
        x, y = x / w, y / w
        left, top = (max(0, int(v.min() - _CONTEXT) // _CELL * _CELL) for v in (x, y))
        right = min(width, -(int(-x.max() - _CONTEXT) // _CELL) * _CELL)
        bottom = min(height, -(int(-y.max() - _CONTEXT) // _CELL) * _CELL)
        if right - left < _MIN_SIDE or bottom - top < _MIN_SIDE:
            return full
        return left, top, right, bottom

    def extract(
        self, extract: Callable[[Gray], Features], margin: float, mask: Gray | None = None
    ) -> Features:
        """Features of the part of the view that shows the original.

        Args:
            extract: returns the features of an image.
            margin: px, width of the border of the original without keypoints.
            mask: (H, W), 0 where keypoints of the original are ignored; None for none.

        Returns:
            Features in pixels of the view.
        """
        left, top, right, bottom = self.box
        part = extract(np.ascontiguousarray(self.image[top:bottom, left:right]))
        height, width = self.image.shape
        features = replace(
            part,
            keypoints=part.keypoints + np.array((left, top), np.float32),
            image=self.image,
            image_size=(width, height),
        )
        return self.keep_inside(features, margin, mask)

    def back(self, points: Float) -> Float:
        """Points (N, 2) of the view in pixels of the original."""
        if not len(points):
            return points
        mapped = cv2.perspectiveTransform(points[None].astype(np.float64), self.to_original)
        return np.asarray(mapped[0], np.float32)

    def keep_inside(self, features: Features, margin: float, mask: Gray | None = None) -> Features:
        """The features that lie within the original, without a border of `margin` px.

        Args:
            mask: see `extract`.
        """
        points = self.back(features.keypoints)
        height, width = self.original.shape
        # Homogeneous coordinates, because a point beyond the horizon maps to the wrong side.
        depth = features.keypoints @ self.to_original[2, :2] + self.to_original[2, 2]
        center = self.to_original[2, :2] @ np.array(self.image.shape[::-1]) / 2
        sign = np.sign(center + self.to_original[2, 2])
        kept = (depth * sign > 0) & np.isfinite(points).all(1)
        if not np.array_equal(self.to_original, np.eye(3)):
            kept &= (points >= margin).all(1)
            kept &= (points[:, 0] < width - margin) & (points[:, 1] < height - margin)
        if mask is not None:
            kept[kept] = is_allowed(points[kept], mask)
        if kept.all():
            return features
        return replace(
            features,
            keypoints=features.keypoints[kept],
            scores=features.scores[kept],
            descriptors=features.descriptors[kept],
        )

    def in_original(self, features: Features) -> Features:
        """Features of the view as features of the original."""
        height, width = self.original.shape
        return replace(
            features,
            keypoints=self.back(features.keypoints),
            image=self.original,
            image_size=(width, height),
        )


def shrink(image: Gray, factor: float) -> Gray:
    """An image resized by a factor ≤ 1, at least 16 px wide and high."""
    if factor >= 1:
        return image
    height, width = image.shape
    size = max(16, round(width * factor)), max(16, round(height * factor))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def _resize_matrix(size: tuple[int, int], onto: tuple[int, int]) -> Matrix:
    """(3, 3), from pixels of an image of one size to those of its resized version."""
    sx, sy = onto[0] / size[0], onto[1] / size[1]
    return np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def is_mild(H: Matrix, points: Float, ratio: float, degrees: float) -> bool:
    """Whether the local affine maps of a homography are close to a translation.

    Args:
        H: (3, 3).
        points: (N, 2), px; the maps are compared in the box of most of them.
        ratio: maximum stretch or shrinkage of a mild map.
        degrees: maximum rotation of a mild map.
    """
    low, middle, high = np.quantile(points, (0.1, 0.5, 0.9), axis=0)
    for x, y in (middle, low, high, (low[0], high[1]), (high[0], low[1])):
        linear = local_map(H, (x, y))
        if not np.isfinite(linear).all():
            return False
        left, axes, right = np.linalg.svd(linear)
        turn = left @ right
        angle = np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))
        if max(axes[0], 1 / max(axes[1], 1e-9)) > ratio or abs(angle) > degrees:
            return False
    return True


def local_map(H: Matrix, point: NDArray[Any] | tuple[float, float]) -> Matrix:
    """(2, 2), linear part of the affine map that approximates a homography at a point (2,)."""
    x, y, w = H @ (float(point[0]), float(point[1]), 1.0)
    return np.asarray((H[:2, :2] - np.outer((x, y), H[2, :2]) / w) / w)


def local_scale(H: Matrix, point: NDArray[Any]) -> float:
    """Square root of the change of area of a homography (3, 3) at a point (2,)."""
    return float(np.sqrt(abs(np.linalg.det(local_map(H, point)))))

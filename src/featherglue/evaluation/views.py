"""The two images of a task, and how they are related."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.photometric import augment_photometric
from featherglue.evaluation.pair_lists import HomographyPair, PosePair
from featherglue.io.image import Grey, read_grey, resize_grey

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class HomographyViews:
    """Images (H, W) uint8 and the homography (3, 3) from pixels of the first to the second."""

    image0: Grey
    image1: Grey
    H: Matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseViews:
    """Images (H, W) uint8, their intrinsics (3, 3), and the pose (4, 4) from camera 0 to 1."""

    image0: Grey
    image1: Grey
    K0: Matrix
    K1: Matrix
    T_0to1: Matrix


def warped_views(task: HomographyPair, size: tuple[int, int], seed: int | None) -> HomographyViews:
    """An image resized to `size` (width, height), and its copy warped by H to that size.

    Args:
        seed: with the task's index it determines the photometric change of the copy; None
            leaves the copy as it is.

    Raises:
        ImageError: the image cannot be read.
    """
    image0 = resize_grey(read_grey(task.path0), size)
    image1 = np.asarray(cv2.warpPerspective(image0, task.H, size), np.uint8)
    if seed is not None:
        image1 = augment_photometric(np.random.default_rng((seed, task.index)), image1)
    return HomographyViews(image0=image0, image1=image1, H=task.H)


def photographed_views(task: HomographyPair) -> HomographyViews:
    """Two photographs at their own sizes.

    Raises:
        ImageError: one cannot be read.
    """
    assert task.path1 is not None
    return HomographyViews(image0=read_grey(task.path0), image1=read_grey(task.path1), H=task.H)


def pose_views(task: PosePair) -> PoseViews:
    """Two photographs, turned as the list says, with intrinsics and pose turned likewise.

    Raises:
        ImageError: one cannot be read.
    """
    image0, K0, turn0 = turn_camera(read_grey(task.path0), task.K0, task.rotation0)
    image1, K1, turn1 = turn_camera(read_grey(task.path1), task.K1, task.rotation1)
    return PoseViews(
        image0=image0, image1=image1, K0=K0, K1=K1, T_0to1=turn1 @ task.T_0to1 @ turn0.T
    )


def turn_camera(image: Grey, K: Matrix, times: int) -> tuple[Grey, Matrix, Matrix]:
    """Turn an image by np.rot90 and its camera with it.

    The same as `rotate_intrinsics` and `rotate_pose_inplane` of SuperGlue's evaluation, except
    that pixel centres lie at whole numbers, so that a width w gives w − 1.

    Args:
        image: (H, W) uint8. K: (3, 3). times: quarter turns, counter-clockwise.

    Returns:
        the turned image, its K (3, 3), and (4, 4) from the old camera to the new one.
    """
    turn = np.eye(4)
    for _ in range(times % 4):
        quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        pixels = quarter.copy()
        pixels[1, 2] = image.shape[1] - 1
        image, K = np.rot90(image), pixels @ K @ quarter.T
        turn[:3, :3] = quarter @ turn[:3, :3]
    return np.ascontiguousarray(image), K, turn

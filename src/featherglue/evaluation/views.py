"""The images of a pair, read and prepared, and their relation."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.data.photometric import augment_photometric
from featherglue.evaluation.pair_lists import HomographyPair, PosePair
from featherglue.io.gray import Gray
from featherglue.io.image import read_gray, resize_gray

Matrix = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class HomographyViews:
    """Images of a planar scene.

    Attributes:
        image0, image1: (H, W) uint8, gray.
        H: (3, 3) float64, maps (x, y, 1) pixels of image 0 to image 1.
    """

    image0: Gray
    image1: Gray
    H: Matrix


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseViews:
    """Images of calibrated cameras.

    Attributes:
        image0, image1: (H, W) uint8, gray.
        K0, K1: (3, 3) float64 intrinsics.
        T_0to1: (4, 4) float64 pose from camera 0 to camera 1.
    """

    image0: Gray
    image1: Gray
    K0: Matrix
    K1: Matrix
    T_0to1: Matrix


def warped_views(pair: HomographyPair, size: tuple[int, int], seed: int | None) -> HomographyViews:
    """Resize an image, and warp it by H.

    Args:
        pair: the image and H.
        size: (width, height) in pixels of both views.
        seed: seed of the photometric change of the second view, together with the pair's index;
            None disables the change.

    Raises:
        ImageError: the image cannot be read.
    """
    image0 = resize_gray(read_gray(pair.path0), size)
    image1 = np.asarray(cv2.warpPerspective(image0, pair.H, size), np.uint8)
    if seed is not None:
        image1 = augment_photometric(np.random.default_rng((seed, pair.index)), image1)
    return HomographyViews(image0=image0, image1=image1, H=pair.H)


def photographed_views(pair: HomographyPair) -> HomographyViews:
    """Read two photographs at their full sizes.

    Raises:
        ImageError: an image cannot be read.
    """
    assert pair.path1 is not None
    return HomographyViews(image0=read_gray(pair.path0), image1=read_gray(pair.path1), H=pair.H)


def pose_views(pair: PosePair) -> PoseViews:
    """Read two photographs and rotate them, their intrinsics and their pose as the list asks.

    Raises:
        ImageError: an image cannot be read.
    """
    image0, K0, turn0 = rotate_camera(read_gray(pair.path0), pair.K0, pair.rotation0)
    image1, K1, turn1 = rotate_camera(read_gray(pair.path1), pair.K1, pair.rotation1)
    return PoseViews(
        image0=image0, image1=image1, K0=K0, K1=K1, T_0to1=turn1 @ pair.T_0to1 @ turn0.T
    )


def rotate_camera(image: Gray, K: Matrix, times: int) -> tuple[Gray, Matrix, Matrix]:
    """Rotate an image by np.rot90, and its camera with it.

    Equals `rotate_intrinsics` and `rotate_pose_inplane` of SuperGlue's evaluation, except that
    the center of the top-left pixel is (0, 0): w − 1 takes the place of the width w.

    Args:
        image: (H, W) uint8.
        K: (3, 3) float64 intrinsics.
        times: number of counter-clockwise quarter turns.

    Returns:
        The rotated image, its intrinsics (3, 3), and the transform (4, 4) from the original
        camera to the rotated one.
    """
    transform = np.eye(4)
    for _ in range(times % 4):
        quarter = np.array([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        pixels = quarter.copy()
        pixels[1, 2] = image.shape[1] - 1
        image, K = np.rot90(image), pixels @ K @ quarter.T
        transform[:3, :3] = quarter @ transform[:3, :3]
    return np.ascontiguousarray(image), K, transform

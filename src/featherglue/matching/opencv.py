"""SIFT and ORB features from OpenCV."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.gray import Gray

Float = NDArray[np.float32]
DESCRIPTOR_WIDTHS = {"sift": 128, "orb": 256}
_ORB_BORDER = 31  # px without keypoints on every side


def extract_classical(
    kind: Literal["sift", "orb"], image: Gray, max_keypoints: int
) -> tuple[Float, Float, Float]:
    """Extract SIFT (Lowe 2004) or ORB (Rublee et al. 2011) features, strongest first.

    Args:
        kind: "sift" or "orb".
        image: (H, W) uint8.
        max_keypoints: maximum number of keypoints; −1 keeps all (ORB: 100,000).

    Returns:
        Keypoints (N, 2) float32 (x, y) pixels; scores (N,) float32 in [0, 1], the responses divided
        by their maximum; descriptors float32, L2-normalized. SIFT has RootSIFT descriptors
        (N, 128) (Arandjelović and Zisserman 2012). ORB has its bits (N, 256) as ±1/16, whose dot
        products rank pairs like the Hamming distance.
    """
    detector: cv2.Feature2D
    empty = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    width = DESCRIPTOR_WIDTHS[kind]
    if kind == "orb" and min(image.shape) <= 2 * _ORB_BORDER:
        return *empty, np.zeros((0, width), np.float32)
    if kind == "sift":
        detector = cv2.SIFT.create(nfeatures=max(max_keypoints, 0), enable_precise_upscale=True)
    else:
        detector = cv2.ORB.create(nfeatures=max_keypoints if max_keypoints > 0 else 100_000)
    found, raw = detector.detectAndCompute(image, None)
    if raw is None or not found:
        return *empty, np.zeros((0, width), np.float32)
    keypoints = np.array([point.pt for point in found], np.float32)
    responses = np.array([point.response for point in found], np.float32)
    order = np.argsort(-responses, kind="stable")[: max_keypoints if max_keypoints > 0 else None]
    if kind == "sift":
        descriptors = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-9))
    else:
        descriptors = (
            np.unpackbits(np.asarray(raw, np.uint8), axis=1).astype(np.float32) / 8 - 1 / 16
        )
    scores = np.clip(responses / max(float(responses.max()), 1e-12), 0, 1)
    return keypoints[order], scores[order], descriptors[order].astype(np.float32)

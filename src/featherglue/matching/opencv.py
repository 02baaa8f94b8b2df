"""Classical features from OpenCV, as a baseline and for models trained on them."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.image import Grey

Float = NDArray[np.float32]
_ORB_BORDER = 31  # px on every side without keypoints, of every pyramid level


def extract_classical(
    kind: Literal["sift", "orb"], image: Grey, max_keypoints: int
) -> tuple[Float, Float, Float]:
    """SIFT (Lowe 2004) or ORB (Rublee 2011) features, strongest first.

    Args:
        image: (H, W) uint8. max_keypoints: -1 for all (ORB: 100,000).

    Returns:
        keypoints (N, 2) xy; scores (N,), the responses over their maximum; descriptors
        L2-normalised: RootSIFT (N, 128), or ORB's 256 bits as ±1/16, whose products order
        pairs as the Hamming distance does.
    """
    detector: cv2.Feature2D
    nothing = np.zeros((0, 2), np.float32), np.zeros(0, np.float32)
    width = 128 if kind == "sift" else 256
    if kind == "orb" and min(image.shape) <= 2 * _ORB_BORDER:
        return *nothing, np.zeros((0, width), np.float32)
    if kind == "sift":
        detector = cv2.SIFT.create(nfeatures=max(max_keypoints, 0), enable_precise_upscale=True)
    else:
        detector = cv2.ORB.create(nfeatures=max_keypoints if max_keypoints > 0 else 100_000)
    found, raw = detector.detectAndCompute(image, None)
    if raw is None or not found:
        return *nothing, np.zeros((0, width), np.float32)
    keypoints = np.array([point.pt for point in found], np.float32)
    strength = np.array([point.response for point in found], np.float32)
    order = np.argsort(-strength, kind="stable")[: max_keypoints if max_keypoints > 0 else None]
    if kind == "sift":
        descriptors = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-9))
    else:
        descriptors = (
            np.unpackbits(np.asarray(raw, np.uint8), axis=1).astype(np.float32) / 8 - 1 / 16
        )
    scores = np.clip(strength / max(float(strength.max()), 1e-12), 0, 1)
    return keypoints[order], scores[order], descriptors[order].astype(np.float32)

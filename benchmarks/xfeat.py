"""XFeat (Potje et al. 2024) from an exported ONNX file, for comparison.

Input: gray image (1, 1, 640, 640), normalized to mean 0 and variance 1. Outputs: descriptors
(80, 80, 64), keypoint logits (80, 80, 65) and reliability (1, 1, 80, 80).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from featherglue.io.image import Image, load_gray, map_points, resize_gray
from featherglue.matching.assignment import nearest_neighbors
from featherglue.matching.subpixel import refine_matches
from featherglue.types import Features, Matches, MatchResult

Float = NDArray[np.float32]
SIDE, CELLS, WINDOW, THRESHOLD = 640, 80, 5, 0.05


class XFeat:
    """Sparse XFeat features with mutual nearest neighbors; has `extract` and `match`."""

    def __init__(
        self,
        path: Path,
        max_keypoints: int = 512,
        threads: int | None = None,
        refine: bool = False,
    ) -> None:
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        options.add_session_config_entry(
            "session.intra_op.allow_spinning", "0"
        )  # as in featherglue
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._max_keypoints, self._refine = max_keypoints, refine

    def extract(self, image: Image) -> Features:
        """Extract features. The image is scaled to fit 640×640 and padded on the right or below."""
        gray = load_gray(image)
        size = (gray.shape[1], gray.shape[0])
        scale = SIDE / max(size)
        small_size = (round(size[0] * scale), round(size[1] * scale))
        small = resize_gray(gray, small_size).astype(np.float32)
        padded = np.zeros((1, 1, SIDE, SIDE), np.float32)
        inside = padded[0, 0, : small_size[1], : small_size[0]]
        inside[:] = (small - small.mean()) / np.sqrt(small.var() + 1e-5)
        outputs = self._session.run(None, {self._input: padded})
        by_channels = {output.shape[-1]: output for output in outputs}
        descriptors = by_channels[64].reshape(CELLS, CELLS, 64)
        logits = by_channels[65].reshape(CELLS, CELLS, 65)
        reliability = by_channels[80].reshape(CELLS, CELLS, 1)
        keypoints, scores = self._keypoints(logits, reliability, small_size)
        return Features(
            keypoints=map_points(keypoints, small_size, size),
            scores=scores,
            descriptors=_sample(_unit(descriptors), keypoints, cubic=True),
            image_size=size,
            image=gray,
        )

    def _keypoints(
        self, logits: Float, reliability: Float, size: tuple[int, int]
    ) -> tuple[Float, Float]:
        exponent = np.exp(logits - logits.max(-1, keepdims=True))
        cells = (exponent / exponent.sum(-1, keepdims=True))[..., :64]
        heat = cells.reshape(CELLS, CELLS, 8, 8).transpose(0, 2, 1, 3).reshape(SIDE, SIDE)
        heat = np.ascontiguousarray(heat)
        maxima = (heat == cv2.dilate(heat, np.ones((WINDOW, WINDOW), np.uint8))) & (
            heat > THRESHOLD
        )
        y, x = np.nonzero(maxima[: size[1], : size[0]])
        keypoints = np.stack((x, y), 1).astype(np.float32)
        scores = heat[y, x] * _sample(reliability, keypoints, cubic=False, unit=False)[:, 0]
        order = np.argsort(-scores, kind="stable")[: self._max_keypoints]
        return keypoints[order], np.clip(scores[order], 0, 1).astype(np.float32)

    def match(self, features0: Features, features1: Features) -> MatchResult:
        """Match by mutual nearest neighbors."""
        indices, scores = nearest_neighbors(features0.descriptors, features1.descriptors)
        points0 = features0.keypoints[indices[:, 0]]
        points1 = features1.keypoints[indices[:, 1]]
        refined = np.zeros(len(indices), np.bool_)
        if self._refine and features0.image is not None and features1.image is not None:
            points1, refined = refine_matches(features0.image, features1.image, points0, points1)
        matches = Matches(
            indices=indices, scores=scores, points0=points0, points1=points1, refined=refined
        )
        return MatchResult(features0=features0, features1=features1, matches=matches)


def _unit(x: Float) -> Float:
    unit: Float = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    return unit


def _sample(grid: Float, keypoints: Float, cubic: bool, unit: bool = True) -> Float:
    """Sample (80, 80, C) as XFeat does: bicubic (a = −0.75) or bilinear, zero outside."""
    at = keypoints / (SIDE - 1) * CELLS - 0.5
    base = np.floor(at).astype(int)
    fraction = at - base
    steps = range(-1, 3) if cubic else range(2)
    sampled = np.zeros((len(keypoints), grid.shape[2]), np.float32)
    for dy in steps:
        for dx in steps:
            x, y = base[:, 0] + dx, base[:, 1] + dy
            valid = (x >= 0) & (y >= 0) & (x < CELLS) & (y < CELLS)
            weight = _kernel(fraction[:, 0] - dx, cubic) * _kernel(fraction[:, 1] - dy, cubic)
            values = grid[y.clip(0, CELLS - 1), x.clip(0, CELLS - 1)]
            sampled += values * np.where(valid, weight, 0)[:, None].astype(np.float32)
    return _unit(sampled) if unit else sampled


def _kernel(distance: Float, cubic: bool) -> Float:
    d = np.abs(distance)
    if not cubic:
        linear: Float = np.maximum(0, 1 - d)
        return linear
    a = -0.75
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0))

"""Drawn frames for a benchmark without photographs."""

from __future__ import annotations

import cv2
import numpy as np

from featherglue.io.gray import Gray


def draw_frames(size: tuple[int, int], seed: int = 0) -> tuple[Gray, Gray]:
    """Draw two views of a scene with structure at every scale, shifted by a few pixels.

    Args:
        size: (width, height) in pixels.
        seed: seed of the scene.

    Returns:
        Two gray images (H, W) uint8.
    """
    rng = np.random.default_rng(seed)
    width, height = size
    canvas = np.full((height + 32, width + 32), 128, np.uint8)
    for scale in np.geomspace(0.4, 0.02, 400):
        center = rng.uniform(0, 1, 2) * (width + 32, height + 32)
        corners = center + rng.uniform(-1, 1, (int(rng.integers(3, 7)), 2)) * scale * width
        cv2.fillPoly(canvas, [corners.astype(np.int32)], int(rng.integers(0, 256)), cv2.LINE_AA)
    noisy = canvas + 4 * rng.standard_normal(canvas.shape)
    canvas = cv2.GaussianBlur(np.clip(noisy, 0, 255).astype(np.uint8), (0, 0), 0.8).astype(np.uint8)
    views = [
        np.ascontiguousarray(canvas[y : y + height, x : x + width]) for x, y in ((8, 8), (14, 5))
    ]
    return views[0], views[1]

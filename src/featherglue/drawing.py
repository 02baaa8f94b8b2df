"""Pictures of matches, with OpenCV. Images are RGB uint8."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.io.image import Grey, resize_grey
from featherglue.types import MatchResult

RGB = NDArray[np.uint8]
_GAP = 8
_KEYPOINT = (170, 170, 170)


def confidence_colors(scores: NDArray[np.float32]) -> RGB:
    """Colours (M, 3) RGB from blue (0) over green to red (1)."""
    levels = np.clip(np.asarray(scores) * 255, 0, 255).astype(np.uint8)
    if len(levels) == 0:
        return np.zeros((0, 3), np.uint8)
    return np.asarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1])


def draw_matches(
    result: MatchResult,
    image0: Grey | None = None,
    image1: Grey | None = None,
    *,
    max_side: int = 1600,
    keypoints: bool = True,
    lines: list[str] | None = None,
) -> RGB:
    """Both images side by side with lines between the matches, coloured by confidence.

    Args:
        image0, image1: (H, W) uint8; by default those that the features keep.
        max_side: the picture's largest width.
        keypoints: draw those without a match too, grey.
        lines: text in the upper left corner.

    Returns:
        (H, W, 3) RGB.
    """
    images = [
        feature.image if image is None else image
        for feature, image in ((result.features0, image0), (result.features1, image1))
    ]
    shown = [np.full((8, 8), 40, np.uint8) if image is None else image for image in images]
    scale = min(1.0, (max_side - _GAP) / sum(image.shape[1] for image in shown))
    canvas, left = _side_by_side(shown, scale)
    offsets = np.array([[0, 0], [left, 0]], np.float32)
    matches = result.matches
    if keypoints:
        for features, offset in zip((result.features0, result.features1), offsets, strict=True):
            for x, y in features.keypoints * scale + offset:
                cv2.circle(canvas, _pixel(x, y), 24, _KEYPOINT, 1, cv2.LINE_AA, 4)
    colors = confidence_colors(matches.scores)
    order = np.argsort(matches.scores, kind="stable")
    for i in order:
        first = matches.points0[i] * scale + offsets[0]
        second = matches.points1[i] * scale + offsets[1]
        color = tuple(int(channel) for channel in colors[i])
        cv2.line(canvas, _pixel(*first), _pixel(*second), color, 1, cv2.LINE_AA, 4)
        for point in (first, second):
            cv2.circle(canvas, _pixel(*point), 32, color, -1, cv2.LINE_AA, 4)
    _write_text(canvas, lines or [])
    return canvas


def _pixel(x: float, y: float) -> tuple[int, int]:
    """A point in OpenCV's fixed-point coordinates with 4 fractional bits."""
    return round(float(x) * 16), round(float(y) * 16)


def _side_by_side(images: list[Grey], scale: float) -> tuple[RGB, int]:
    """Both images on one white canvas, and where the second one starts."""
    small = [
        resize_grey(
            image, (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        )
        for image in images
    ]
    left = small[0].shape[1] + _GAP
    height = max(image.shape[0] for image in small)
    canvas = np.full((height, left + small[1].shape[1], 3), 255, np.uint8)
    canvas[: small[0].shape[0], : small[0].shape[1]] = small[0][..., None]
    canvas[: small[1].shape[0], left:] = small[1][..., None]
    return canvas, left


def _write_text(canvas: RGB, lines: list[str]) -> None:
    """Lines of plain text, white on a dark ground, in a size that suits the picture."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, canvas.shape[0] / 1000)
    if not lines:
        return
    height = round(32 * size + 4)
    width = max(cv2.getTextSize(line, font, size, 1)[0][0] for line in lines)
    cv2.rectangle(canvas, (0, 0), (width + 16, len(lines) * height + 8), (30, 30, 30), -1)
    for i, line in enumerate(lines):
        at = (8, (i + 1) * height)
        cv2.putText(canvas, line, at, font, size, (255, 255, 255), 1, cv2.LINE_AA)

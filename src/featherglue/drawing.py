"""Pictures of matches. Pictures are RGB (H, W, 3) uint8."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from featherglue.errors import UsageError
from featherglue.io.gray import Gray
from featherglue.io.image import resize_gray
from featherglue.types import Features, MatchResult

RGB = NDArray[np.uint8]
_GAP = 8  # px between the images
_KEYPOINT_COLOR = (170, 170, 170)
_BLANK = 40  # gray value of an image that is not available
_MAX_TEXT = 0.25  # share of the height that text may cover; twice of the width
_FRACTION_BITS = 4  # of OpenCV's fixed-point coordinates
_FARTHEST = 1e6  # px, beyond which points are drawn nearer: the coordinates have 32 bits


def confidence_colors(scores: NDArray[np.float32]) -> RGB:
    """Colors (M, 3) of confidences (M,): blue (0), green, red (1). Others are clipped."""
    levels = np.clip(np.asarray(scores) * 255, 0, 255).astype(np.uint8)
    if len(levels) == 0:
        return np.zeros((0, 3), np.uint8)
    return np.asarray(cv2.applyColorMap(levels[:, None], cv2.COLORMAP_TURBO)[:, 0, ::-1])


def draw_matches(
    result: MatchResult,
    image0: Gray | None = None,
    image1: Gray | None = None,
    *,
    max_width: int = 1600,
    show_keypoints: bool = True,
    lines: Sequence[str] | None = None,
) -> RGB:
    """Draw both images side by side, with lines between matches in colors of their confidence.

    Args:
        result: features and matches.
        image0, image1: (H, W) uint8 gray images of the size of the features; None uses the images
            of the features, or a blank one.
        max_width: px, maximum width of the picture; larger images are scaled down. An image with
            less than a third of the size of the other one is enlarged to half of it.
        show_keypoints: draw the keypoints of both images in gray.
        lines: text for the upper left corner; above the images if it would cover much of them.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        UsageError: an image has another size than the features, or `max_width` is below 64.
    """
    if (
        isinstance(max_width, bool)
        or not isinstance(max_width, (int, np.integer))
        or max_width < 64
    ):
        raise UsageError(f"max_width must be an integer of at least 64, not {max_width!r}")
    images = [
        _image(result.features0, image0, "image0"),
        _image(result.features1, image1, "image1"),
    ]
    scales = _scales(images, max_width)
    canvas, left = _side_by_side(images, scales)
    offsets = np.array([[0, 0], [left, 0]], np.float32)
    if show_keypoints:
        for i, features in enumerate((result.features0, result.features1)):
            for x, y in features.keypoints * scales[i] + offsets[i]:
                _draw_circle(canvas, x, y, 1.5, _KEYPOINT_COLOR, 1)
    matches = result.matches
    colors = confidence_colors(matches.scores)
    for i in np.argsort(matches.scores, kind="stable"):  # the most confident ones on top
        first = matches.points0[i] * scales[0] + offsets[0]
        second = matches.points1[i] * scales[1] + offsets[1]
        color = tuple(int(channel) for channel in colors[i])
        ends = _fixed_point(*first), _fixed_point(*second)
        cv2.line(canvas, *ends, color, 1, cv2.LINE_AA, _FRACTION_BITS)
        for x, y in (first, second):
            _draw_circle(canvas, x, y, 2, color, -1)
    return _with_text(canvas, lines) if lines else canvas


def _image(features: Features, image: Gray | None, name: str) -> Gray:
    """The given image, that of the features, or a blank one."""
    width, height = features.image_size
    if image is None:
        image = features.image
    if image is None:
        return np.full((height, width), _BLANK, np.uint8)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise UsageError(f"{name} must be a uint8 array of gray values")
    if image.shape != (height, width):
        raise UsageError(f"{name} must be ({height}, {width}), not {image.shape}")
    return image


def _draw_circle(
    canvas: RGB, x: float, y: float, radius: float, color: tuple[int, ...], thickness: int
) -> None:
    scaled = round(radius * 2**_FRACTION_BITS)
    cv2.circle(canvas, _fixed_point(x, y), scaled, color, thickness, cv2.LINE_AA, _FRACTION_BITS)


def _fixed_point(x: float, y: float) -> tuple[int, int]:
    x, y = (min(max(float(value), -_FARTHEST), _FARTHEST) for value in (x, y))
    return round(x * 2**_FRACTION_BITS), round(y * 2**_FRACTION_BITS)


def _scales(images: list[Gray], max_width: int) -> list[float]:
    """Factors by which the images are scaled for a picture of at most `max_width` px."""
    sizes = [max(image.shape) for image in images]
    factors = [max(sizes) / (2 * size) if 3 * size < max(sizes) else 1.0 for size in sizes]
    width = sum(image.shape[1] * factor for image, factor in zip(images, factors, strict=True))
    fit = min(1.0, (max_width - _GAP) / width)
    return [factor * fit for factor in factors]


def _side_by_side(images: list[Gray], scales: list[float]) -> tuple[RGB, int]:
    """Both scaled images on a white canvas, and the column at which the second one starts."""
    scaled = [
        resize_gray(
            image, (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        )
        for image, scale in zip(images, scales, strict=True)
    ]
    left = scaled[0].shape[1] + _GAP
    height = max(image.shape[0] for image in scaled)
    canvas = np.full((height, left + scaled[1].shape[1], 3), 255, np.uint8)
    canvas[: scaled[0].shape[0], : scaled[0].shape[1]] = scaled[0][..., None]
    canvas[: scaled[1].shape[0], left:] = scaled[1][..., None]
    return canvas, left


def _with_text(canvas: RGB, lines: Sequence[str]) -> RGB:
    """The picture with lines of white text on a dark rectangle, in a size that follows its own."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, max(0.4, canvas.shape[0] / 1000)
    line_height = round(32 * size + 4)
    width = max(cv2.getTextSize(line, font, size, 1)[0][0] for line in lines) + 16
    height = len(lines) * line_height + 8
    if height > canvas.shape[0] * _MAX_TEXT or width > canvas.shape[1] * 2 * _MAX_TEXT:
        above = (height + 1, 0), (0, max(0, width + 1 - canvas.shape[1])), (0, 0)
        canvas = np.pad(canvas, above, constant_values=255)
    cv2.rectangle(canvas, (0, 0), (width, height), (30, 30, 30), -1)
    for i, line in enumerate(lines):
        position = (8, (i + 1) * line_height)
        cv2.putText(canvas, line, position, font, size, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas

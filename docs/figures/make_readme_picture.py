"""Draw the animation of the README: a moving view of a photograph, matched with its first frame.

    python docs/figures/make_readme_picture.py docs/figures/matching.gif

The photograph comes with scikit-image ("coffee", CC0). The camera path is fixed, so that the same
weights give the same animation. Needs scikit-image and Pillow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage import data

import featherglue as fg
from featherglue.drawing import confidence_colors

VIEW = (400, 300)  # width and height of a frame
NUM_FRAMES = 24
FRAME_MS = 90
SCALE = 0.9  # of the drawn pictures
NUM_GRAYS, NUM_CONFIDENCES = 40, 24  # colors of the palette


def camera(phase: float) -> np.ndarray:
    """Homography from the photograph to the frame at a phase of the closed path, in [0, 1)."""
    width, height = VIEW
    turn = 2 * np.pi * phase
    angle, zoom = 0.28 * np.sin(turn), 0.74 + 0.14 * np.cos(turn)
    center = np.array([300 + 55 * np.sin(turn), 200 + 25 * np.sin(2 * turn)])
    cos, sin = zoom * np.cos(angle), zoom * np.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    to_center = np.array([[1, 0, -center[0]], [0, 1, -center[1]], [0, 0, 1]])
    tilt = np.eye(3)
    tilt[2, :2] = 7e-4 * np.sin(turn), 5e-4 * (1 - np.cos(turn))
    to_frame = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1]])
    return to_frame @ tilt @ rotation @ to_center


def frames() -> list[np.ndarray]:
    """Gray frames (H, W) uint8 along the camera path."""
    photograph = cv2.cvtColor(data.coffee(), cv2.COLOR_RGB2GRAY)
    return [
        cv2.warpPerspective(
            photograph,
            camera(i / NUM_FRAMES),
            VIEW,
            flags=cv2.INTER_AREA,
            borderMode=cv2.BORDER_REFLECT,
        )
        for i in range(NUM_FRAMES)
    ]


def gray_and_confidence_palette() -> Image.Image:
    """An image whose palette has the gray levels of photographs and the colors of confidences."""
    grays = np.repeat(np.linspace(0, 255, NUM_GRAYS).astype(np.uint8)[:, None], 3, axis=1)
    colors = confidence_colors(np.linspace(0, 1, NUM_CONFIDENCES, dtype=np.float32))
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([grays, colors]).tobytes())
    return palette


def main() -> None:
    """Write the animation to the path on the command line."""
    target = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/figures/matching.gif")
    session = fg.load("fast", max_keypoints=256)
    first, *others = (session.extract(frame) for frame in frames())
    pictures = [
        fg.draw_matches(
            session.match(first, other), max_side=round(2 * VIEW[0] * SCALE), keypoints=False
        )
        for other in others
    ]
    palette = gray_and_confidence_palette()
    quantized = [
        Image.fromarray(picture).quantize(palette=palette, dither=Image.Dither.NONE)
        for picture in pictures
    ]
    quantized[0].save(
        target, save_all=True, append_images=quantized[1:], duration=FRAME_MS, loop=0, optimize=True
    )
    print(f"{target}: {target.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()

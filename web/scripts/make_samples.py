"""Make the sample pairs of the page: a photograph, and a copy from another view in other light.

    python web/scripts/make_samples.py web/public/samples

The photographs come with scikit-image: "coffee" (Rachel Michetti, CC0) and "rocket" (SpaceX,
released into the public domain).
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data

# Corners of the second view in the photograph, as fractions of its sides: clockwise from top left.
VIEWS = {
    "coffee": [(0.10, 0.02), (0.97, 0.12), (0.88, 0.98), (0.03, 0.84)],
    "rocket": [(0.02, 0.14), (0.90, 0.02), (0.98, 0.90), (0.12, 0.98)],
}
SIZE = (640, 480)


def second_view(image: np.ndarray, corners: list[tuple[float, float]]) -> np.ndarray:
    """The part of an image between four corners, darker toward one side."""
    width, height = SIZE
    source = np.float32(corners) * np.float32([image.shape[1], image.shape[0]])
    target = np.float32([(0, 0), (width, 0), (width, height), (0, height)])
    H = cv2.getPerspectiveTransform(source, target)
    view = cv2.warpPerspective(image, H, SIZE, flags=cv2.INTER_AREA)
    light = np.linspace(1.1, 0.6, width)[None, :, None]
    return np.clip(255 * (view / 255.0) ** 1.2 * light, 0, 255).astype(np.uint8)


def main() -> None:
    """Write two JPEG files for each photograph."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, corners in VIEWS.items():
        image = cv2.cvtColor(getattr(data, name)(), cv2.COLOR_RGB2BGR)
        pair = (image, second_view(image, corners))
        for i, view in enumerate(pair):
            path = folder / f"{name}{i}.jpg"
            cv2.imwrite(str(path), view, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()

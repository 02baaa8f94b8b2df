"""Match a photograph with a warped and darkened copy of it, and measure the accuracy.

The photograph is part of scikit-image. The true homography between both images is known, so the
estimated one can be compared with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data

import featherglue as fg
from featherglue.geometry.projection import corner_error
from featherglue.io.files import write_image

FOLDER = Path("demo")
MAX_ERROR = 5.0  # pixels


def make_images() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photograph (H, W) uint8, its warped copy, and the homography between them."""
    image = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)
    height, width = image.shape
    homography = np.array([[0.86, -0.31, 120.0], [0.22, 0.93, -40.0], [-1.5e-4, 2.5e-4, 1.0]])
    warped = cv2.warpPerspective(image, homography, (width, height))
    darker = np.clip(warped.astype(np.float32) * 0.7 + 12, 0, 255).astype(np.uint8)
    return image, darker, homography


def main() -> int:
    """Write both images and a picture of the matches to demo/. Returns 0 on success."""
    image0, image1, truth = make_images()
    write_image(FOLDER / "first.png", image0)
    write_image(FOLDER / "second.png", image1)

    session = fg.load("fast")
    session(FOLDER / "first.png", FOLDER / "second.png")  # warm-up
    result = session(FOLDER / "first.png", FOLDER / "second.png")
    estimate = result.homography()
    picture = FOLDER / "matches.png"
    write_image(picture, fg.draw_matches(result))

    height, width = image0.shape
    error = corner_error(estimate.model, truth, (width, height))
    times = ", ".join(f"{stage} {ms:.1f}" for stage, ms in result.milliseconds.items())
    print(f"keypoints   {len(result.features0)} and {len(result.features1)}")
    print(f"matches     {len(result.matches)}, {estimate.num_inliers} inliers of a homography")
    print(f"error       {error:.2f} px, mean over the image corners")
    print(f"time        {sum(result.milliseconds.values()):.0f} ms ({times})")
    print(f"picture     {picture.resolve()}")
    return 0 if error < MAX_ERROR else 1


if __name__ == "__main__":
    sys.exit(main())

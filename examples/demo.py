"""Match a photograph with a copy of it, seen from elsewhere in another light, and say how well.

The photograph comes with scikit-image; the homography between the two views is known, so the one
estimated from the matches can be compared with it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from skimage import data

import featherglue as fg
from featherglue.drawing import draw_matches
from featherglue.geometry.projection import corner_error
from featherglue.io.files import write_image


def main() -> int:
    """Write both photographs and the picture of the matches to demo/; 0 where all went well."""
    folder = Path("demo")
    photograph = cv2.cvtColor(data.astronaut(), cv2.COLOR_RGB2GRAY)
    height, width = photograph.shape
    truth = np.array([[0.86, -0.31, 120.0], [0.22, 0.93, -40.0], [-1.5e-4, 2.5e-4, 1.0]])
    view = cv2.warpPerspective(photograph, truth, (width, height))
    view = np.clip(view.astype(np.float32) * 0.7 + 12, 0, 255).astype(np.uint8)
    write_image(folder / "first.png", photograph)
    write_image(folder / "second.png", view)

    session = fg.load("fast")
    session(folder / "first.png", folder / "second.png")  # warm-up, so that the times are typical
    result = session(folder / "first.png", folder / "second.png")
    homography = result.homography()
    picture = folder / "matches.png"
    write_image(picture, draw_matches(result))

    error = corner_error(homography.model, truth, (width, height))
    times = ", ".join(f"{stage} {ms:.1f}" for stage, ms in result.milliseconds.items())
    print(f"keypoints  {len(result.features0)} and {len(result.features1)}")
    print(f"matches    {len(result.matches)}, of which {homography.num_inliers} fit one homography")
    print(f"error      the estimated homography puts the corners {error:.2f} px off, on average")
    print(f"time       {sum(result.milliseconds.values()):.0f} ms ({times})")
    print(f"picture    {picture.resolve()}")
    return 0 if error < 5 else 1


if __name__ == "__main__":
    sys.exit(main())

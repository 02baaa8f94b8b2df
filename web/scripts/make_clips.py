"""Make the videos that the tests of the page play.

    python web/scripts/make_clips.py web/build [IMAGES] [--rate 30]

`camera.y4m` is what Chromium's fake camera shows: the images of a folder if it is given and exists,
otherwise a moving view of a sample. `plane.webm` is a moving view of a sample.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

SIZE = (640, 480)
NUM_FRAMES = 45
SAMPLE = Path(__file__).parents[1] / "public/samples/coffee0.jpg"


def moving_views() -> Iterator[np.ndarray]:
    """Views (480, 640, 3) uint8 of a photograph along a closed path."""
    photograph = cv2.imread(str(SAMPLE))
    height, width = photograph.shape[:2]
    for turn in np.linspace(0, 2 * np.pi, NUM_FRAMES, endpoint=False):
        cos, sin = np.cos(0.2 * np.sin(turn)), np.sin(0.2 * np.sin(turn))
        zoom = 1.1 + 0.1 * np.cos(turn)
        rotation = np.array([[zoom * cos, -zoom * sin, 0], [zoom * sin, zoom * cos, 0], [0, 0, 1]])
        to_center = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]])
        tilt = np.eye(3)
        tilt[2, :2] = 4e-4 * np.sin(turn), 3e-4 * (1 - np.cos(turn))
        to_view = np.array([[1, 0, 320 + 25 * np.sin(2 * turn)], [0, 1, 240], [0, 0, 1]])
        H = to_view @ tilt @ rotation @ to_center
        yield cv2.warpPerspective(photograph, H, SIZE, borderMode=cv2.BORDER_REFLECT)


def folder_images(folder: Path) -> Iterator[np.ndarray]:
    """Images of a folder, forwards and backwards."""
    paths = sorted(folder.glob("*.jpg"))
    for path in paths + paths[-2:0:-1]:
        yield cv2.resize(cv2.imread(str(path)), SIZE, interpolation=cv2.INTER_AREA)


def main() -> None:
    """Write both videos."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("images", type=Path, nargs="?")
    parser.add_argument("--rate", type=int, default=30)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    has_images = options.images is not None and any(options.images.glob("*.jpg"))
    frames = folder_images(options.images) if has_images else moving_views()
    with (options.output / "camera.y4m").open("wb") as file:
        file.write(f"YUV4MPEG2 W{SIZE[0]} H{SIZE[1]} F{options.rate}:1 Ip A1:1 C420\n".encode())
        for frame in frames:
            file.write(b"FRAME\n" + cv2.cvtColor(frame, cv2.COLOR_BGR2YUV_I420).tobytes())
    path = str(options.output / "plane.webm")
    writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"VP80"), options.rate, SIZE)
    if not writer.isOpened():
        raise SystemExit("OpenCV cannot write WebM files")
    for frame in moving_views():
        writer.write(frame)
    writer.release()


if __name__ == "__main__":
    main()

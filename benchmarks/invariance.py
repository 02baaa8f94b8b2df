"""True matches when one image is rotated or scaled, with and without a search.

    python benchmarks/invariance.py PHOTOS --num-photos 32 --json FILE

Each photograph is resized to 640×480 and matched with a rotated or a shrunk copy of itself, darker
and with noise. A match is true if it lies within 3 px of the truth, measured in the coarser image.
The last row matches different photographs: all of their matches are wrong.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from option_types import positive

import featherglue as fg
from featherglue.io.image import list_images, read_gray

SIZE = (640, 480)
DEGREES = (0, 30, 60, 90, 120, 150, 180)
FACTORS = (0.7, 0.5, 0.35, 0.25, 0.18)
TOLERANCE = 3.0  # px


def rotated(image: np.ndarray, degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole image, rotated, and the homography (3, 3) onto it."""
    height, width = image.shape
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1)
    c, s = abs(turn[0, 0]), abs(turn[0, 1])
    size = round(width * c + height * s), round(height * c + width * s)
    turn[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return cv2.warpAffine(image, turn, size), np.vstack([turn, [0, 0, 1]])


def shrunk(image: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """The image, shrunk, and the homography (3, 3) onto it."""
    small = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    sx, sy = small.shape[1] / image.shape[1], small.shape[0] / image.shape[0]
    return small, np.array([[sx, 0, (sx - 1) / 2], [0, sy, (sy - 1) / 2], [0, 0, 1]])


def num_true(result: fg.MatchResult, H: np.ndarray | None) -> int:
    """Number of true matches; H maps image 0 to image 1, None for unrelated images."""
    matches = result.matches
    if H is None or not len(matches):
        return 0
    forth = cv2.perspectiveTransform(matches.points0[None].astype(float), H)[0]
    back = cv2.perspectiveTransform(matches.points1[None].astype(float), np.linalg.inv(H))[0]
    errors = np.minimum(
        np.linalg.norm(forth - matches.points1, axis=1),
        np.linalg.norm(back - matches.points0, axis=1),
    )
    return int((errors < TOLERANCE).sum())


def pairs(
    photos: list[np.ndarray],
) -> Iterator[tuple[str, np.ndarray, np.ndarray, np.ndarray | None]]:
    """Name of the change, both images, and the homography between them."""
    rng = np.random.default_rng(0)

    def darker(image: np.ndarray) -> np.ndarray:
        noisy = image * 0.85 + 10 + rng.normal(0, 2, image.shape)
        return np.asarray(np.clip(noisy, 0, 255), np.uint8)

    for degrees in DEGREES:
        for photo in photos:
            copy, H = rotated(photo, degrees)
            yield f"rotated by {degrees}°", photo, darker(copy), H
    for factor in FACTORS:
        for photo in photos:
            copy, H = shrunk(photo, factor)
            yield f"scaled to {factor:g}", photo, darker(copy), H
    for photo, other in zip(photos, photos[1:] + photos[:1], strict=True):
        yield "unrelated", photo, darker(other), None


def measure(
    sessions: dict[str, fg.Session], photos: list[np.ndarray]
) -> dict[str, dict[str, dict[str, float]]]:
    """Means over photographs by change and method, and the median time of a pair in ms."""
    found: dict[str, dict[str, list[tuple[int, int, float]]]] = {}
    for change, image0, image1, H in pairs(photos):
        for name, session in sessions.items():
            result = session(image0, image1)
            milliseconds = sum(result.milliseconds.values())
            rows = found.setdefault(change, {}).setdefault(name, [])
            rows.append((num_true(result, H), len(result.matches), milliseconds))
    return {
        change: {
            name: {
                "true": statistics.fmean(row[0] for row in rows),
                "matches": statistics.fmean(row[1] for row in rows),
                "ms": statistics.median(row[2] for row in rows),
            }
            for name, rows in methods.items()
        }
        for change, methods in found.items()
    }


def table(measured: dict[str, dict[str, dict[str, float]]]) -> str:
    """Format the mean numbers of true matches as a Markdown table."""
    names = list(next(iter(measured.values())))
    lines = [f"| true matches | {' | '.join(names)} |", f"|---|{'---:|' * len(names)}"]
    for change, methods in measured.items():
        cells = [
            f"{row['true']:.0f} ({row['ms']:.0f} ms)"
            if change != "unrelated"
            else f"{row['matches']:.0f} wrong ({row['ms']:.0f} ms)"
            for row in methods.values()
        ]
        lines.append(f"| {change} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--num-photos", type=positive, default=32)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    paths = list_images(options.photos)
    step = max(1, len(paths) // options.num_photos)
    photos = [
        cv2.resize(read_gray(path), SIZE, interpolation=cv2.INTER_AREA)
        for path in paths[::step][: options.num_photos]
    ]
    common: dict[str, Any] = {"max_keypoints": options.max_keypoints, "threads": options.threads}
    sessions = {
        options.model: fg.load(options.model, search="off", **common),
        f"{options.model}, search": fg.load(options.model, search="auto", **common),
        "SIFT": fg.load(features="sift", matcher="nn", **common),
    }
    measured = measure(sessions, photos)
    print(table(measured))
    if options.json is not None:
        options.json.write_text(json.dumps(measured, indent=1) + "\n")


if __name__ == "__main__":
    main()

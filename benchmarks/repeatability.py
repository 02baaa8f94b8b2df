"""Repeatability of detectors under homographies, at equal numbers of keypoints.

    python benchmarks/repeatability.py VAL [--model fast] [--xfeat xfeat_640x640.onnx]
                                       [--max-keypoints 512] [--spacing 4] [--limit 0]

VAL holds images and `homographies.txt`. Each pair is measured without and with photometric change.
Repeatability is the ratio of keypoints that have a keypoint of the other image within 3 px, of all
keypoints that are visible in both images.

Dense clusters of keypoints raise the repeatability. Each detector is therefore also measured
`spaced`: in order of score, a keypoint is dropped if a stronger one is nearer than --spacing px in
x and y. featherglue's own non-maximum suppression does the same. `by chance` is the repeatability
after the keypoints of the second image have been rotated by 180°.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from option_types import positive
from xfeat import XFeat

import featherglue as fg
from featherglue.evaluation import HomographySuite
from featherglue.geometry.metrics import detector_metrics

Points = NDArray[np.float32]
SIZE = (640, 480)
OVERSAMPLING = 8  # detected keypoints per kept keypoint, for the spaced variants


def spaced(points: Points, spacing: float, count: int) -> Points:
    """The first `count` points that are at least `spacing` px from all kept ones in x or y."""
    kept = np.empty((count, 2), np.float32)
    found = 0
    for point in points:
        if not (np.abs(kept[:found] - point).max(1) < spacing).any():
            kept[found] = point
            found += 1
            if found == count:
                break
    return kept[:found]


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("val", type=Path, help="folder of the val suite")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--xfeat", type=Path, help="ONNX file of XFeat")
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--spacing", type=float, default=4, help="minimum distance, px")
    parser.add_argument(
        "--num-pairs", type=positive, help="maximum number of pairs; all by default"
    )
    parser.add_argument("--threads", type=positive, default=2)
    options = parser.parse_args(arguments)
    count = options.max_keypoints
    detected = OVERSAMPLING * count
    common: dict[str, Any] = {"max_keypoints": detected, "threads": options.threads}
    detectors: dict[str, Any] = {
        options.model: fg.load(options.model, **common),
        "SIFT": fg.load(features="sift", matcher="nn", **common),
        "ORB": fg.load(features="orb", matcher="nn", **common),
    }
    if options.xfeat is not None:
        detectors["XFeat"] = XFeat(options.xfeat, detected, options.threads)
    pair_file = options.val / "homographies.txt"
    for photometric in (False, True):
        suite = HomographySuite(
            folder=options.val, pair_file=pair_file, photometric=photometric, size=SIZE
        )
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for task in list(suite.pairs())[: options.num_pairs]:
            views = suite.views(task)
            for name, detector in detectors.items():
                both = [detector.extract(i).keypoints for i in (views.image0, views.image1)]
                variants = {
                    name: [points[:count] for points in both],
                    f"{name}, spaced": [spaced(points, options.spacing, count) for points in both],
                }
                for label, (points0, points1) in variants.items():
                    rotated = np.asarray(SIZE, np.float32) - 1 - points1
                    found[label].append(
                        (
                            detector_metrics(points0, points1, views.H, SIZE, SIZE).repeatability,
                            detector_metrics(points0, rotated, views.H, SIZE, SIZE).repeatability,
                        )
                    )
        print(f"\n{'with' if photometric else 'without'} photometric change")
        print("\n| | repeatability at 3 px, % | by chance |\n|---|---:|---:|")
        for label, values in found.items():
            mean = 100 * np.mean(values, 0)
            print(f"| {label} | {mean[0]:.1f} | {mean[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""How well detectors find the same points again, under homographies, at the same count.

    python benchmarks/repeatability.py VAL [--model fast] [--xfeat xfeat_640x640.onnx]
                                       [--max-keypoints 512] [--spacing 4] [--limit 0]

VAL holds images and `homographies.txt`; each pair is taken without and with changed light.
Repeatability is the share of the keypoints that both images could show and that have one of the
other image within 3 px. Detectors that put many keypoints beside each other gain by it, so that the
others are also measured `spaced`: strongest first, none nearer than --spacing px (in x and y) to a
kept one, as ours are by themselves. `by chance` is what is left when the second image's keypoints
are turned by 180°.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xfeat import XFeat

import featherglue as fg
from featherglue.evaluation import HomographySuite
from featherglue.geometry.metrics import detector_metrics

Points = NDArray[np.float32]
SIZE = (640, 480)
MORE = 8  # times as many keypoints are asked for, to be left with enough


def spaced(points: Points, spacing: float, count: int) -> Points:
    """The first `count` of which none is nearer than `spacing`, in x and in y, to one before it."""
    kept = np.empty((count, 2), np.float32)
    found = 0
    for point in points:
        if not (np.abs(kept[:found] - point).max(1) < spacing).any():
            kept[found] = point
            found += 1
            if found == count:
                break
    return kept[:found]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("val", type=Path)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--xfeat", type=Path)
    parser.add_argument("--max-keypoints", type=int, default=512)
    parser.add_argument("--spacing", type=float, default=4, help="px")
    parser.add_argument("--limit", type=int, default=0, help="pairs; 0 for all")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    most = options.max_keypoints
    common: dict[str, Any] = {"max_keypoints": MORE * most, "threads": options.threads}
    detectors: dict[str, Any] = {
        options.model: fg.load(options.model, **common),
        "SIFT": fg.load(features="sift", matcher="nn", **common),
        "ORB": fg.load(features="orb", matcher="nn", **common),
    }
    if options.xfeat is not None:
        detectors["XFeat"] = XFeat(options.xfeat, MORE * most, options.threads)
    for light in (False, True):
        listed = options.val / "homographies.txt"
        suite = HomographySuite(folder=options.val, pair_file=listed, photometric=light)
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for task in list(suite.pairs())[: options.limit or None]:
            views = suite.views(task)
            for name, detector in detectors.items():
                both = [detector.extract(i).keypoints for i in (views.image0, views.image1)]
                ways = {
                    name: [points[:most] for points in both],
                    f"{name}, spaced": [spaced(points, options.spacing, most) for points in both],
                }
                for label, (points0, points1) in ways.items():
                    turned = np.asarray(SIZE, np.float32) - 1 - points1
                    found[label].append(
                        (
                            detector_metrics(points0, points1, views.H, SIZE, SIZE).repeatability,
                            detector_metrics(points0, turned, views.H, SIZE, SIZE).repeatability,
                        )
                    )
        print(f"\n{'changed light' if light else 'as they are'}")
        print("\n| | repeatability at 3 px, % | by chance |\n|---|---:|---:|")
        for label, values in found.items():
            mean = 100 * np.mean(values, 0)
            print(f"| {label} | {mean[0]:.1f} | {mean[1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()

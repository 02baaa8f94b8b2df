"""Displacement of the cameras of a suite whose homographies say that they did not move.

    python benchmarks/drift.py DATA/illumination [--num-keypoints 1024] [--threads 1]

The displacement of a pair is the median over the correct matches (error at most 3 px) of `fast`,
`balanced` and SIFT; its spread is the greatest distance of a method from the median of the three.
An exact matcher would have this displacement as its corner error. Prints both for each pair, the
AUC of an exact matcher, and the AUC of `fast` against the given and the displaced homographies.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

import cv2
import numpy as np
from numpy.typing import NDArray
from option_types import positive

import featherglue as fg
from featherglue.errors import EstimationError
from featherglue.evaluation import HPatchesSuite
from featherglue.evaluation.homography_suite import robust_corner_error
from featherglue.evaluation.views import HomographyViews
from featherglue.geometry.metrics import auc

THRESHOLDS = (3, 5)  # px
MIN_MATCHES = 5


def displacement(views: HomographyViews, result: fg.MatchResult) -> NDArray[np.float64]:
    """Median offset (2,) in px of the correct matches from the homography; NaN if there are few."""
    matches = result.matches
    expected = cv2.perspectiveTransform(matches.points0[None].astype(np.float64), views.H)[0]
    offsets = matches.points1 - expected
    correct = np.linalg.norm(offsets, axis=1) < 3
    if correct.sum() < MIN_MATCHES:
        return np.full(2, np.nan)
    return np.asarray(np.median(offsets[correct], axis=0), np.float64)


def corner_error(views: HomographyViews, result: fg.MatchResult, suite: HPatchesSuite) -> float:
    """Corner error in px by OpenCV RANSAC; infinite if the estimation fails."""
    try:
        return robust_corner_error(views, result, suite.config)
    except EstimationError:
        return float("inf")


def main(arguments: list[str] | None = None) -> None:
    """Measure all pairs and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("suite", type=Path, help="folder in the layout of HPatches")
    parser.add_argument("--num-keypoints", type=positive, default=1024, help="of the displacements")
    parser.add_argument("--threads", type=positive, default=1)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    common = {"max_keypoints": options.num_keypoints, "threads": options.threads}
    methods = [
        fg.load("fast", **common),
        fg.load("balanced", **common),
        fg.load(features="sift", matcher="nn", refine=False, search="off", **common),
    ]
    measured = fg.load("fast", max_keypoints=512, threads=options.threads)
    suite = HPatchesSuite(folder=options.suite)
    exact, given, moved = [], [], []
    print("pair | x, px | y, px | spread, px")
    for pair in suite.pairs():
        views = suite.views(pair)
        found = np.array([displacement(views, m(views.image0, views.image1)) for m in methods])
        if np.isnan(found).all():
            print(f"{pair.name} | - | - | -")
            shift = np.zeros(2)
        else:
            shift = np.nanmedian(found, axis=0)
            spread = np.nanmax(np.linalg.norm(found - shift, axis=1))
            print(f"{pair.name} | {shift[0]:.2f} | {shift[1]:.2f} | {spread:.2f}")
        exact.append(float(np.linalg.norm(shift)))
        result = measured(views.image0, views.image1)
        given.append(corner_error(views, result, suite))
        translation = np.array([[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1.0]])
        displaced = HomographyViews(
            image0=views.image0, image1=views.image1, H=translation @ views.H
        )
        moved.append(corner_error(displaced, result, suite))
    for name, errors in (
        ("exact matcher", exact),
        ("fast, given homographies", given),
        ("fast, displaced homographies", moved),
    ):
        areas = zip(THRESHOLDS, auc(errors, THRESHOLDS), strict=True)
        print(f"{name}:", *(f"AUC@{t} {area:.1f}" for t, area in areas))


if __name__ == "__main__":
    main()

"""What of an AUC is luck: RANSAC draws its samples by the order of the matches.

    python benchmarks/orders.py VAL [--models fast balanced checkpoints/dense] [--orders 20]

VAL holds images and `homographies.txt`; light is changed. Each pair's matches, found once, go to
OpenCV's RANSAC in their own order and in so many random ones (fixed seed), and what it finds is
also with local optimization. Of the random orders the mean and the standard deviation of the AUC
over all pairs are shown: what two models differ by less than that may be luck. Precision and recall
do not depend on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import featherglue as fg
from featherglue.errors import EstimationError
from featherglue.evaluation import HomographySuite
from featherglue.geometry.estimation import estimate_homography
from featherglue.geometry.metrics import auc
from featherglue.geometry.projection import corner_error
from featherglue.session import Session

SIZE, THRESHOLDS = (640, 480), (5.0, 10.0, 25.0)


def errors(session: Session, suite: HomographySuite, orders: int) -> NDArray[np.float64]:
    """(2, 1 + orders, pairs) mean corner errors, px, by RANSAC and fitted anew: in the matches' own
    order and in random ones."""
    random = np.random.default_rng(0)
    found = []
    for task in suite.pairs():
        views = suite.views(task)
        matches = session(views.image0, views.image1).matches
        every = np.arange(len(matches))
        shuffled = [every, *(random.permutation(every) for _ in range(orders))]
        ordered = [(matches.points0[order], matches.points1[order]) for order in shuffled]
        found.append(
            [
                [error(*p, views.H, local_optimization) for p in ordered]
                for local_optimization in (False, True)
            ]
        )
    return np.array(found).transpose(1, 2, 0)


def error(
    points0: NDArray[np.float32],
    points1: NDArray[np.float32],
    H: NDArray[np.float64],
    local_optimization: bool,
) -> float:
    """The mean corner error, px, of RANSAC's homography or its fit; infinite where it fails."""
    try:
        estimate = estimate_homography(
            points0,
            points1,
            threshold=3.0,
            method="ransac",
            iterations=3000,
            confidence=0.995,
            local_optimization=local_optimization,
        )
    except EstimationError:
        return float("inf")
    return corner_error(estimate.model, H, SIZE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("val", type=Path)
    parser.add_argument("--models", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--orders", type=int, default=20)
    options = parser.parse_args(arguments)
    suite = HomographySuite(
        folder=options.val, pair_file=options.val / "homographies.txt", size=SIZE
    )
    print("| AUC@5/10/25 | in their own order | mean of random orders | standard deviation |")
    print("|---|---|---|---|")
    for model in options.models:
        both = errors(fg.load(model, threads=2), suite, options.orders)
        for how, all_errors in zip(("", ", fitted anew"), both, strict=True):
            areas = np.array([auc(list(one), THRESHOLDS) for one in all_errors])
            cells = (areas[0], areas[1:].mean(0), areas[1:].std(0))
            print(f"| `{model}`{how} | {' | '.join(map(_slashed, cells))} |", flush=True)


def _slashed(values: NDArray[np.float64]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()

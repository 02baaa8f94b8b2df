"""Variance of the AUC under random orders of the matches, from which RANSAC draws its samples.

    python benchmarks/orders.py VAL [--models fast balanced checkpoints/dense] [--num-orders 20]

VAL holds images and `homographies.txt`; the second images have photometric change. The matches of
each pair are computed once. OpenCV's RANSAC then runs on them in their original order and in random
orders with a fixed seed, without and with local optimization. The table has the AUC of the original
order, and the mean and standard deviation over the random orders. A difference between two models
below this standard deviation is not significant. Precision and recall do not depend on the order.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from option_types import positive

import featherglue as fg
from featherglue.errors import EstimationError
from featherglue.evaluation import HomographySuite
from featherglue.geometry.estimation import estimate_homography
from featherglue.geometry.metrics import auc
from featherglue.geometry.projection import corner_error
from featherglue.session import Session

SIZE, THRESHOLDS = (640, 480), (5.0, 10.0, 25.0)


def errors(session: Session, suite: HomographySuite, orders: int) -> NDArray[np.float64]:
    """Mean corner errors (2, 1 + orders, pairs) of RANSAC, px.

    The first axis is without and with local optimization. The second axis is the original order
    of the matches, then the random orders.
    """
    rng = np.random.default_rng(0)
    found = []
    for task in suite.pairs():
        views = suite.views(task)
        matches = session(views.image0, views.image1).matches
        original = np.arange(len(matches))
        permutations = [original, *(rng.permutation(original) for _ in range(orders))]
        ordered = [(matches.points0[order], matches.points1[order]) for order in permutations]
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
    """Mean corner error of RANSAC's homography, px; infinite if the estimation fails."""
    try:
        estimate = estimate_homography(
            points0,
            points1,
            threshold=3.0,
            method="ransac",
            iterations=3000,
            confidence=0.995,
            local_optimization=local_optimization,
            max_false_alarms=None,
        )
    except EstimationError:
        return float("inf")
    return corner_error(estimate.model, H, SIZE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("val", type=Path, help="folder of the val suite")
    parser.add_argument("--models", nargs="+", default=["fast", "balanced"])
    parser.add_argument("--num-orders", type=positive, default=20, help="number of random orders")
    parser.add_argument("--threads", type=positive, default=2)
    options = parser.parse_args(arguments)
    suite = HomographySuite(
        folder=options.val, pair_file=options.val / "homographies.txt", size=SIZE
    )
    print("| AUC@5/10/25 | model's order | mean of random orders | standard deviation |")
    print("|---|---|---|---|")
    for model in options.models:
        session = fg.load(model, threads=options.threads, search="off")
        both = errors(session, suite, options.num_orders)
        for suffix, all_errors in zip(("", ", local optimization"), both, strict=True):
            areas = np.array([auc(list(one), THRESHOLDS) for one in all_errors])
            cells = (areas[0], areas[1:].mean(0), areas[1:].std(0))
            print(f"| `{model}`{suffix} | {' | '.join(map(_slashed, cells))} |", flush=True)


def _slashed(values: NDArray[np.float64]) -> str:
    return " / ".join(f"{value:.2f}" for value in values)


if __name__ == "__main__":
    main()

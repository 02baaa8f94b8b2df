"""Accuracy of matches on scenes of the validation photographs, for the choice of settings.

    python benchmarks/heldout.py PHOTOS [--model fast] [--matcher superglue] [--num-scenes 100] …

PHOTOS is the folder of the training photographs. Only the photographs that the training stages
set aside for validation are used. The scenes are those of the matcher's training at 640×480, with
exact ground truth: 30 % have a single plane, 70 % several planes at different depths.

The table has the precision and the number of correct matches per scene, within 1 and 3 px, and
their median error. `solvable` is the percentage of scenes with at least 15 matches within 1 px.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from option_types import positive

import featherglue as fg
from featherglue.data.photographs import PhotoFolder
from featherglue.data.scenes import NO_PLANE, SceneConfig, Scenes
from featherglue.train.stages.validation import ValidationConfig

SIZE = (640, 480)
SEED = 777


def errors(sample: dict[str, Any], points0: np.ndarray, points1: np.ndarray) -> np.ndarray:
    """Errors (M,) of matches in view 1, px; infinite for points that are hidden in view 1.

    Matches whose point shows no plane in view 0 are left out.
    """
    planes0, planes1, maps = sample["planes0"], sample["planes1"], sample["maps"]
    x, y = np.rint(points0).astype(int).T
    plane = planes0[y.clip(0, SIZE[1] - 1), x.clip(0, SIZE[0] - 1)]
    known = plane != NO_PLANE
    chosen = maps[np.where(known, plane, 0)]
    mapped = np.einsum("nij,nj->ni", chosen, np.c_[points0, np.ones(len(points0))])
    with np.errstate(divide="ignore", invalid="ignore"):
        truth = mapped[:, :2] / mapped[:, 2:]
    column, row = np.rint(np.nan_to_num(truth, nan=-1, posinf=-1, neginf=-1)).astype(int).T
    inside = (column >= 0) & (column < SIZE[0]) & (row >= 0) & (row < SIZE[1])
    seen = planes1[row.clip(0, SIZE[1] - 1), column.clip(0, SIZE[0] - 1)] == plane
    distance = np.hypot(*(truth - points1).T)
    found: np.ndarray = np.where(inside & seen, distance, np.inf)[known]
    return found


def summary(found: list[np.ndarray]) -> dict[str, float]:
    """Means over the scenes, and the median error of the matches within 3 px."""
    precisions = {
        f"precision at {t} px, %": 100
        * float(np.mean([np.mean(e < t) if len(e) else 0 for e in found]))
        for t in (1, 3)
    }
    counts = {
        f"matches within {t} px": float(np.mean([np.sum(e < t) for e in found])) for t in (1, 3)
    }
    near = np.concatenate([e[e < 3] for e in found])
    solvable = 100 * float(np.mean([np.sum(e < 1) >= 15 for e in found]))
    return {
        **precisions,
        **counts,
        "median error, px": float(np.median(near)) if len(near) else math.nan,
        "solvable, %": solvable,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of the training photographs")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--features", default="superpoint")
    parser.add_argument("--matcher", default="superglue")
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--keypoint-threshold", type=float)
    parser.add_argument("--nms-radius", type=int)
    parser.add_argument("--match-threshold", type=float)
    parser.add_argument("--consensus", type=float)
    parser.add_argument("--no-consensus", action="store_true", help="disable the filter")
    parser.add_argument("--no-refine", action="store_true")
    parser.add_argument("--num-scenes", type=positive, default=100)
    parser.add_argument("--threads", type=positive, default=2)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    _, kept = PhotoFolder(options.photos).split(ValidationConfig().fraction)
    scenes = Scenes(kept, SceneConfig(size=SIZE, planar=0.3, photometric_strength=0.7), SEED)
    names = ("keypoint_threshold", "nms_radius", "match_threshold", "consensus")
    given: dict[str, Any] = {name: getattr(options, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    if options.no_consensus:
        given["consensus"] = None
    if options.no_refine:
        given["refine"] = False
    session = fg.load(
        options.model,
        features=options.features,
        matcher=options.matcher,
        max_keypoints=options.max_keypoints,
        threads=options.threads,
        search="off",
        **given,
    )
    found = []
    for i in range(options.num_scenes):
        sample = scenes[i]
        matches = session(sample["image0"][0], sample["image1"][0]).matches
        found.append(errors(sample, matches.points0, matches.points1))
    for name, value in summary(found).items():
        print(f"{name:22} {value:7.2f}")


if __name__ == "__main__":
    main()

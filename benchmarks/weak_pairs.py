"""Weak pairs made of training photographs, to choose the settings of the search and of planes.

    python benchmarks/weak_pairs.py PHOTOS SCENES [--model fast] [--search auto] [--num-pairs 100]

PHOTOS is a folder of training photographs: their pairs are homographies with strong changes of
appearance. SCENES holds a folder for each multi-view scene with `poses.npz` (`names`, `w2c`, `K`,
optionally `dist`): its pairs are views 8° to 55° apart, as they are and with strong changes of
appearance. The same seed gives the same pairs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from match_orders import ordered_summary
from option_types import positive

import featherglue as fg
from featherglue.data.appearance import Change, augment_appearance
from featherglue.data.homography import HomographyRange, sample_homography
from featherglue.evaluation import HomographySuite, PoseSuite
from featherglue.evaluation.views import HomographyViews, PoseViews
from featherglue.io.image import list_images, read_gray

SIZE = (640, 480)
STRONG = HomographyRange(rotation=56, scale=1.8)
MILD = HomographyRange(rotation=4, scale=1.05, anisotropy=1.02, perspective=0.02, translation=0.03)
# Name -> homographies, strength of the changes of appearance, seed.
KINDS = {
    "strong homographies": (STRONG, 1.3, 5),
    "strong homographies, harder light": (STRONG, 2.0, 11),
    "fixed camera, harder light": (MILD, 2.2, 9),
}
# Name -> strength of the changes of appearance of the views of scenes.
SCENES = {"scenes": 0.0, "scenes, changed light": 1.3}
# Changes of appearance, in the order in which they are drawn.
CHANGES: tuple[Change, ...] = ("shading", "illumination", "tones", "night", "fog", "local_contrast")
ANGLES = (8.0, 55.0)  # degrees between the views of a scene


def planes(photos: Path, kind: str, count: int) -> Iterator[HomographyViews]:
    """Photographs and their warped copies, with different appearance of both."""
    limits, strength, seed = KINDS[kind]
    rng = np.random.default_rng(seed)
    paths = list_images(photos)
    for i in rng.choice(len(paths), min(count, len(paths)), replace=False):
        image = cv2.resize(read_gray(paths[i]), SIZE, interpolation=cv2.INTER_AREA)
        H = sample_homography(rng, SIZE, limits)
        warped = cv2.warpPerspective(image, H, SIZE)
        image0, image1 = (
            augment_appearance(rng, np.asarray(one, np.uint8), strength, CHANGES)
            for one in (image, warped)
        )
        yield HomographyViews(image0=image0, image1=image1, H=H)


def poses(scenes: Path, kind: str, count: int) -> Iterator[PoseViews]:
    """Pairs of views of the scenes, the same number of each."""
    files = sorted(scenes.glob("*/poses.npz"))
    rng, changes = np.random.default_rng(0), np.random.default_rng(3)
    for file in files:
        with np.load(file, allow_pickle=False) as stored:
            data = {name: stored[name] for name in stored.files}
        chosen = list(_pairs(data["w2c"]))
        rng.shuffle(chosen)
        for i, j in chosen[: max(1, count // len(files))]:
            image0, image1 = (_undistorted(file.parent, data, k) for k in (i, j))
            if SCENES[kind]:
                image0, image1 = (
                    augment_appearance(changes, one, SCENES[kind], CHANGES)
                    for one in (image0, image1)
                )
            K0, K1 = (np.broadcast_to(data["K"], (len(data["w2c"]), 3, 3))[k] for k in (i, j))
            T = data["w2c"][j] @ np.linalg.inv(data["w2c"][i])
            yield PoseViews(image0=image0, image1=image1, K0=K0, K1=K1, T_0to1=T)


def _pairs(w2c: np.ndarray) -> Iterator[tuple[int, int]]:
    for i in range(len(w2c)):
        for j in range(i + 1, len(w2c)):
            R = w2c[j, :3, :3] @ w2c[i, :3, :3].T
            angle = np.degrees(np.arccos(np.clip((np.trace(R) - 1) / 2, -1, 1)))
            if ANGLES[0] < angle < ANGLES[1]:
                yield i, j


def _undistorted(folder: Path, data: dict[str, np.ndarray], k: int) -> np.ndarray:
    image = read_gray((folder / str(data["names"][k])).with_suffix(".jpg"))
    if "dist" not in data:
        return image
    K = np.broadcast_to(data["K"], (len(data["w2c"]), 3, 3))[k]
    dist = np.atleast_2d(data["dist"]).astype(np.float64)
    return np.asarray(cv2.undistort(image, K, dist[min(k, len(dist) - 1)]), np.uint8)


def shown(values: dict[str, float]) -> str:
    """AUC at all thresholds."""
    return "/".join(f"{value:.1f}" for value in values.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of training photographs")
    parser.add_argument("scenes", type=Path, help="folder of multi-view scenes for training")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--search", default="auto")
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--num-pairs", type=positive, default=100, help="of each kind")
    parser.add_argument(
        "--num-orders",
        type=positive,
        default=1,
        help="orders of the matches, whose AUC is averaged",
    )
    parser.add_argument("--only", nargs="+", choices=(*KINDS, *SCENES), default=[*KINDS, *SCENES])
    options = parser.parse_args(arguments)
    session = fg.load(
        options.model, max_keypoints=options.max_keypoints, search=options.search, threads=1
    )

    def match(pair: Any) -> tuple[Any, fg.MatchResult]:
        return pair, session(pair.image0, pair.image1)

    homographies = HomographySuite(folder=options.photos, thresholds=(3, 5, 10))
    pose_suite = PoseSuite(folder=options.scenes, pair_file="")
    measured = []
    suite: Any
    views: Iterator[Any]
    for kind in options.only:
        if kind in SCENES:
            suite, views = pose_suite, poses(options.scenes, kind, options.num_pairs)
        else:
            suite, views = homographies, planes(options.photos, kind, options.num_pairs)
        measured.append((kind, ordered_summary(match, suite, views, options.num_orders)))
    print("| pairs | AUC | optimized AUC | precision, recall | pairs |\n|---|---|---|---|---:|")
    for kind, found in measured:
        count = found["pairs"]
        ratios = f"{found['precision']:.1f}, {found['recall']:.1f}"
        print(f"| {kind} | {shown(found['auc'])} | {shown(found['auc_lo'])} | {ratios} | {count} |")


if __name__ == "__main__":
    main()

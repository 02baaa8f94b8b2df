"""Cost of the search: easy pairs and weak pairs of 640×480, without and with it in turns.

    python benchmarks/search_cost.py DATA [--model fast] [--threads 1] [--num-pairs 60]

Easy pairs are a photograph of DATA/val and its shifted copy. Weak pairs are those of
DATA/multiview/val whose plain match the search tries to improve by other views. Prints the median
ratio of the times of easy pairs, and the time that the search adds to a weak pair.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

import cv2
import numpy as np
from option_types import positive

import featherglue as fg
from featherglue.evaluation import PoseSuite
from featherglue.io.image import list_images, read_gray
from featherglue.matching.search_config import SearchConfig

SIZE = (640, 480)


def cost(session: fg.Session, image0: np.ndarray, image1: np.ndarray) -> tuple[float, float]:
    """Wall-clock and processor time in ms of both extractions and the match."""
    wall, cpu = time.perf_counter(), time.process_time()
    session(image0, image1)
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)


def is_weak(session: fg.Session, image0: np.ndarray, image1: np.ndarray) -> bool:
    """Whether the search tries other views of a pair."""
    result = session(image0, image1)
    count = min(len(result.features0), len(result.features1))
    return float(result.matches.scores.sum()) < SearchConfig().weak_ratio * count


def shifted(image: np.ndarray) -> np.ndarray:
    """The image moved by a few pixels."""
    return np.asarray(np.roll(image, (5, 9), (0, 1)))


def main(arguments: list[str] | None = None) -> None:
    """Time the pairs and print the cost."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the suites")
    parser.add_argument("--model", default="fast")
    parser.add_argument("--threads", type=positive, default=1)
    parser.add_argument(
        "--num-pairs", type=positive, default=60, help="maximum number of each kind"
    )
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    common = {"max_keypoints": 512, "threads": options.threads}
    off = fg.load(options.model, search="off", **common)
    auto = fg.load(options.model, search="auto", **common)
    photos = [cv2.resize(read_gray(p), SIZE) for p in list_images(options.data / "val")]
    easy = [(photo, shifted(photo)) for photo in photos[: options.num_pairs]]
    folder = options.data / "multiview" / "val"
    suite = PoseSuite(folder=folder, pair_file=folder / "pairs.txt")
    views = (suite.views(pair) for pair in suite.pairs())
    resized = ((cv2.resize(v.image0, SIZE), cv2.resize(v.image1, SIZE)) for v in views)
    weak = [pair for pair in resized if is_weak(off, *pair)][: options.num_pairs]
    for name, pairs in (("easy", easy), ("weak", weak)):
        plain, searched = [], []
        for pair in pairs:
            plain.append(cost(off, *pair))
            searched.append(cost(auto, *pair))
        for column, kind in enumerate(("wall-clock", "processor")):
            before, after = ([row[column] for row in rows] for rows in (plain, searched))
            added = [b - a for a, b in zip(before, after, strict=True)]
            ratio = statistics.median(b / a for a, b in zip(before, after, strict=True))
            print(
                f"{len(pairs)} {name} pairs, {kind} time: off {statistics.median(before):.1f} ms, "
                f"ratio {ratio:.3f}, the search adds {statistics.mean(added):.1f} ms in the mean, "
                f"{statistics.median(added):.1f} ms in the median"
            )


if __name__ == "__main__":
    main()

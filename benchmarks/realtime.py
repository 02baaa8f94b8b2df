"""The steady state of a video: frame in, matches with the frame before out. All take turns.

    python benchmarks/realtime.py FRAMES [--model fast] [--xfeat xfeat_640x640.onnx]
                                  [--dense FOLDER] [--threads 2] [--rounds 3] [--json OUT]

FRAMES is a folder of frames in order. Every contender gets every frame, read before and resized to
its size, extracts it and matches it with the one before, whose features it has kept. In each round
all contenders take turns at the whole sequence, so that each is in its steady state and a drift of
the machine hits all alike. (In turns frame by frame they would find each other's data in the
caches: that costs half as much again, and no user does it.) Figures are medians over the frames of
all rounds but each first few; `vs fast` is the median over rounds of the ratio of their medians.
`ms` is from one frame's matches to the next one's, `latency` from a frame to its matches: the same,
but where the next frame is extracted ahead. NumPy's products run on one thread, for all alike: the
threads of OpenBLAS wait actively and keep the cores from the networks (XFeat 45 instead of 35 ms).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

import cv2
import numpy as np
from xfeat import XFeat

import featherglue as fg
from featherglue.artifact.registry import shipped_models
from featherglue.io.files import write_json
from featherglue.io.image import list_images, read_grey, resize_grey
from featherglue.machine import describe_machine
from featherglue.matching.stopwatch import Stopwatch
from featherglue.video import Frame, match_frames

WARMUP = 3


@dataclass
class Runner:
    """A contender and what it took, frame by frame."""

    label: str
    matching: Any
    size: tuple[int, int] = (640, 480)
    rounds: list[list[float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)

    @property
    def milliseconds(self) -> list[float]:
        return [value for one in self.rounds for value in one]

    def run(self, frames: Sequence[np.ndarray]) -> None:
        """One round: the whole sequence."""
        small = [resize_grey(frame, self.size) for frame in frames]
        kept = self.matching.extract(small[0])
        times = []
        for k, frame in enumerate(small[1:]):
            kept, spent, stages, count = self.step(kept, frame)
            if k >= WARMUP:
                times.append(spent)
                self.latencies.append(spent)
                self.stages += stages
                self.matches.append(count)
        self.rounds.append(times)

    def step(self, kept: Any, frame: np.ndarray) -> tuple[Any, float, list[dict[str, float]], int]:
        begin = time.perf_counter()
        watch = Stopwatch()
        if isinstance(self.matching, fg.Session):
            features = self.matching.extract(frame, watch)
            result = self.matching.match(kept, features, watch)
        else:
            features = self.matching.extract(frame)
            result = self.matching.match(kept, features)
        spent = (time.perf_counter() - begin) * 1e3
        stages = [watch.milliseconds] if watch.milliseconds else []
        return features, spent, stages, len(result.matches)

    def row(self, reference: Runner) -> dict[str, Any]:
        ratios = [
            statistics.median(ours) / statistics.median(theirs)
            for ours, theirs in zip(self.rounds, reference.rounds, strict=True)
        ]
        low, middle, high = np.percentile(self.milliseconds, (5, 50, 95))
        names = dict.fromkeys(name for stage in self.stages for name in stage)
        return {
            "frames_per_second": 1e3 / middle,
            "ms": middle,
            "ms_p5": low,
            "ms_p95": high,
            "latency": statistics.median(self.latencies),
            "vs fast": statistics.median(ratios),
            "matches": statistics.median(self.matches),
            "stages": {
                name: statistics.median(stage.get(name, 0.0) for stage in self.stages)
                for name in names
            },
        }


class Lookahead(Runner):
    """As `featherglue video` takes the frames of a file: the next one is extracted meanwhile."""

    def run(self, frames: Sequence[np.ndarray]) -> None:
        small = (resize_grey(frame, self.size) for frame in frames)
        pictures = [Frame(number=i, time=i, image=image) for i, image in enumerate(small)]
        times = []
        before = time.perf_counter()
        for k, item in enumerate(match_frames(self.matching, pictures, lookahead=True)):
            now = time.perf_counter()
            if k > WARMUP:
                times.append((now - before) * 1e3)
                self.latencies.append(item.milliseconds["total"])
                self.matches.append(len(item.matches))
            before = now
        self.rounds.append(times)


def contenders(options: argparse.Namespace) -> list[Runner]:
    """Ours at the sizes of the bars, and the peers."""
    common = {"threads": options.threads}
    found = [
        Runner("fast", fg.load(options.model, **common)),
        Runner(
            "fast 320×240, 256", fg.load(options.model, max_keypoints=256, **common), (320, 240)
        ),
    ]
    half = {"threads": max(1, options.threads // 2)}
    found.insert(1, Lookahead("fast, lookahead", fg.load(options.model, **half)))
    small = fg.load(options.model, max_keypoints=256, **half)
    found.append(Lookahead("fast 320×240, 256, lookahead", small, (320, 240)))
    if importlib.util.find_spec("openvino") is not None:
        openvino = fg.load(options.model, runtime="openvino", **common)
        found.insert(2, Runner("fast, OpenVINO", openvino))
    if "balanced" in shipped_models():
        found.append(Runner("balanced, 1024", fg.load("balanced", max_keypoints=1024, **common)))
        # A threshold of one's own: however many keypoints there are, no more is asked of the weak.
        all_kept = fg.load("balanced", max_keypoints=1024, keypoint_threshold=0.0, **common)
        found.append(Runner("balanced, all 1024", all_kept))
    sift = {"features": "sift", "matcher": "nn", "max_keypoints": 512, "threads": options.threads}
    found.append(Runner("SIFT", fg.load(**sift, refine=False)))
    found.append(Runner("SIFT, refined", fg.load(**sift)))
    if options.xfeat is not None:
        found.append(Runner("XFeat", XFeat(options.xfeat, 512, options.threads)))
    if options.dense is not None:
        dense = fg.load(options.dense, runtime="torch", max_keypoints=512, **common)
        found.append(Runner("dense, PyTorch", dense))
    return found


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown, a line for each row."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *columns], [":--", *["--:"] * len(columns)]]
    for label, row in rows.items():
        lines.append([label, *(f"{row[c]:.2f}" if c in row else "" for c in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path)
    parser.add_argument("--model", default="fast", help="what is called `fast` here")
    parser.add_argument("--xfeat", type=Path)
    parser.add_argument("--dense", type=Path, help="a model folder, run in PyTorch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="times through the frames")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(options.threads)
    frames = [read_grey(path) for path in list_images(options.frames)]
    if len(frames) < WARMUP + 2:
        parser.error(f"{options.frames}: at least {WARMUP + 2} frames are needed")
    runners = contenders(options)
    for _ in range(options.rounds):
        for runner in runners:
            runner.run(frames)
    rows = {runner.label: runner.row(runners[0]) for runner in runners}
    figures = ("frames_per_second", "ms", "ms_p5", "ms_p95", "latency", "vs fast", "matches")
    print(table({label: {key: row[key] for key in figures} for label, row in rows.items()}))
    print(table({label: row["stages"] for label, row in rows.items() if row["stages"]}))
    if options.json is not None:
        write_json(
            options.json,
            {"machine": describe_machine(), "threads": options.threads, "rows": rows},
        )


if __name__ == "__main__":
    main()

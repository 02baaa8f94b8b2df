"""Speed of matching consecutive video frames, for featherglue and its peers.

    python benchmarks/realtime.py FRAMES [--model fast] [--xfeat xfeat_640x640.onnx]
                                  [--dense FOLDER] [--threads 2] [--num-rounds 3] [--json OUT]

FRAMES is a folder of video frames, ordered by name. They are read and resized before the
measurement. A contender extracts features from each frame and matches them with the features of
the previous frame.

In each round every contender processes the whole sequence, so that each is measured in its steady
state and a drift of the machine affects all. Switching contenders after each frame would evict
their data from the caches and take about 1.5 times as long.

Figures are medians over the frames of all rounds, without the warm-up frames of each round:

- `ms`: time between the matches of two consecutive frames.
- `latency`: time from a frame to its matches. It exceeds `ms` only with lookahead.
- `vs fast`: median over rounds of the ratio between the medians of the contender and of `fast`.

NumPy uses one thread for all contenders. Idle threads of OpenBLAS spin and take the cores from
the networks (XFeat: 45 ms instead of 35 ms).
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
from option_types import positive
from xfeat import XFeat

import featherglue as fg
from featherglue.artifact.registry import shipped_models
from featherglue.io.files import write_json
from featherglue.io.image import list_images, read_gray, resize_gray
from featherglue.machine import describe_machine
from featherglue.matching.stopwatch import Stopwatch
from featherglue.video import Frame, match_frames

WARMUP = 3


@dataclass
class Runner:
    """A contender and its measurements.

    Attributes:
        label: name in tables.
        matching: session or `XFeat`.
        size: (width, height) of the frames, px.
        rounds: ms of each frame, for each round.
        latencies: ms of each frame.
        stages: ms of each stage, for each frame.
        matches: number of matches of each frame.
    """

    label: str
    matching: Any
    size: tuple[int, int] = (640, 480)
    rounds: list[list[float]] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    stages: list[dict[str, float]] = field(default_factory=list)
    matches: list[int] = field(default_factory=list)

    @property
    def milliseconds(self) -> list[float]:
        return [value for times in self.rounds for value in times]

    def run(self, frames: Sequence[np.ndarray]) -> None:
        """Process the whole sequence once."""
        small = [resize_gray(frame, self.size) for frame in frames]
        previous = self.matching.extract(small[0])
        times = []
        for k, frame in enumerate(small[1:]):
            previous, milliseconds, stages, count = self.step(previous, frame)
            if k >= WARMUP:
                times.append(milliseconds)
                self.latencies.append(milliseconds)
                self.stages += stages
                self.matches.append(count)
        self.rounds.append(times)

    def step(
        self, previous: Any, frame: np.ndarray
    ) -> tuple[Any, float, list[dict[str, float]], int]:
        """Features of the frame, ms, ms of each stage, and number of matches."""
        start = time.perf_counter()
        watch = Stopwatch()
        if isinstance(self.matching, fg.Session):
            features = self.matching.extract(frame, watch)
            result = self.matching.match(previous, features, watch)
        else:
            features = self.matching.extract(frame)
            result = self.matching.match(previous, features)
        milliseconds = (time.perf_counter() - start) * 1e3
        stages = [watch.milliseconds] if watch.milliseconds else []
        return features, milliseconds, stages, len(result.matches)

    def row(self, reference: Runner) -> dict[str, Any]:
        """The figures of the contender; ratios are relative to `reference`."""
        ratios = [
            statistics.median(times) / statistics.median(reference_times)
            for times, reference_times in zip(self.rounds, reference.rounds, strict=True)
        ]
        low, median, high = np.percentile(self.milliseconds, (5, 50, 95))
        names = dict.fromkeys(name for stage in self.stages for name in stage)
        return {
            "frames_per_second": 1e3 / median,
            "ms": median,
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
    """Extracts the next frame while the current one is matched, like `featherglue video`."""

    def run(self, frames: Sequence[np.ndarray]) -> None:
        small = (resize_gray(frame, self.size) for frame in frames)
        pictures = [Frame(number=i, time=i, image=image) for i, image in enumerate(small)]
        times = []
        last = time.perf_counter()
        for k, item in enumerate(match_frames(self.matching, pictures, lookahead=True)):
            now = time.perf_counter()
            if k > WARMUP:
                times.append((now - last) * 1e3)
                self.latencies.append(item.milliseconds["total"])
                self.matches.append(len(item.matches))
            last = now
        self.rounds.append(times)


def contenders(options: argparse.Namespace) -> list[Runner]:
    """featherglue at its documented sizes, and its peers."""
    common: dict[str, Any] = {"threads": options.threads, "search": "off"}
    found = [
        Runner("fast", fg.load(options.model, **common)),
        Runner(
            "fast 320×240, 256", fg.load(options.model, max_keypoints=256, **common), (320, 240)
        ),
    ]
    half = common | {"threads": max(1, options.threads // 2)}
    found.insert(1, Lookahead("fast, lookahead", fg.load(options.model, **half)))
    small = fg.load(options.model, max_keypoints=256, **half)
    found.append(Lookahead("fast 320×240, 256, lookahead", small, (320, 240)))
    if importlib.util.find_spec("openvino") is not None:
        openvino = fg.load(options.model, runtime="openvino", **common)
        found.insert(2, Runner("fast, OpenVINO", openvino))
    if "balanced" in shipped_models():
        found.append(Runner("balanced, 1024", fg.load("balanced", max_keypoints=1024, **common)))
        # An explicit threshold disables `high_keypoint_threshold`.
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
    """Format rows as a Markdown table."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [["", *columns], [":--", *["--:"] * len(columns)]]
    for label, row in rows.items():
        lines.append([label, *(f"{row[c]:.2f}" if c in row else "" for c in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("frames", type=Path, help="folder of frames")
    parser.add_argument("--model", default="fast", help="model of the contender `fast`")
    parser.add_argument("--xfeat", type=Path, help="ONNX file of XFeat")
    parser.add_argument("--dense", type=Path, help="folder of a model to run in PyTorch")
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument(
        "--num-rounds", type=positive, default=3, help="number of passes over the frames"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    frames = [read_gray(path) for path in list_images(options.frames)]
    if len(frames) < WARMUP + 2:
        parser.error(f"{options.frames}: at least {WARMUP + 2} frames are needed")
    runners = contenders(options)
    for _ in range(options.num_rounds):
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

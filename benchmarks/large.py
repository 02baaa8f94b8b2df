"""Time and peak memory of matching two large views of one photograph.

    python benchmarks/large.py photograph.jpg [--megapixels 2 12 24 50] [--max-keypoints 4096]

The photograph is resized to each size; the second view is moved by 5 % of its width. Each figure is
the median of fresh processes, which match once to warm up. `default` reduces the images to the
working size of the model, `tile` extracts them at full detail.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from typing import Any

import cv2
import numpy as np
from option_types import positive

import featherglue as fg
from featherglue.io.image import read_gray
from featherglue.machine import peak_memory

MODES: dict[str, dict[str, bool]] = {
    "default": {},
    "tile": {"tile": True},
    "spread": {"tile": True, "spread": True},
}


def measure(path: str, megapixels: float, mode: str, model: str, keypoints: int) -> dict[str, Any]:
    """Counts, milliseconds and peak megabytes of one match in this process."""
    photograph = read_gray(path)
    factor = (megapixels * 1e6 / photograph.size) ** 0.5
    large = cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    del photograph
    shift = large.shape[1] // 20
    views = np.ascontiguousarray(large[:, :-shift]), np.ascontiguousarray(large[:, shift:])
    del large
    settings: dict[str, Any] = MODES[mode] | ({"max_keypoints": keypoints} if MODES[mode] else {})
    session = fg.load(model, threads=2, search="off", **settings)
    session(views[0][:512, :512], views[1][:512, :512])
    before = peak_memory()
    start, processor = time.perf_counter(), time.process_time()
    result = session(*views)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    offsets = result.matches.points0 - result.matches.points1 - (shift, 0)
    return {
        "seconds": seconds,
        "processor": processor,
        "peak": peak_memory() / 1e6,
        "before": before / 1e6,
        "keypoints": len(result.features0),
        "matches": len(result.matches),
        "within_1px": float(np.mean(np.linalg.norm(offsets, axis=1) < 1)),
        "stages": {name: round(ms) for name, ms in result.milliseconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photograph")
    parser.add_argument("--megapixels", type=float, nargs="+", default=[2, 12, 24, 50])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["default", "tile"])
    parser.add_argument("--model", default="fast")
    parser.add_argument("--max-keypoints", type=positive, default=4096, help="of tiled images")
    parser.add_argument("--repetitions", type=positive, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        (size,), (mode,) = options.megapixels, options.modes
        found = measure(options.photograph, size, mode, options.model, options.max_keypoints)
        print(json.dumps(found))
        return
    print("| megapixels | mode | keypoints | matches | within 1 px | s | CPU s | peak MB |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for size in options.megapixels:
        for mode in options.modes:
            command = [sys.executable, __file__, options.photograph, "--one"]
            command += ["--megapixels", str(size), "--modes", mode, "--model", options.model]
            command += ["--max-keypoints", str(options.max_keypoints)]
            runs = [
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                for _ in range(options.repetitions)
            ]
            middle = {
                key: statistics.median(run[key] for run in runs)
                for key in runs[0]
                if key != "stages"
            }
            print(
                f"| {size:g} | {mode} | {middle['keypoints']} | {middle['matches']} | "
                f"{middle['within_1px']:.1%} | {middle['seconds']:.1f} | "
                f"{middle['processor']:.1f} | {middle['peak']:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

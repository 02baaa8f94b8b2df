"""Import time, cold start, stages of a match and sizes on this machine, as medians.

    python benchmarks/basics.py first.jpg second.jpg [--num-repetitions 9] [--threads 2]

Every figure is a median over fresh processes (import, cold start) or over repetitions after a
warm-up (stages).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
from option_types import positive

import featherglue as fg
from featherglue.artifact.registry import find_model
from featherglue.io.image import read_gray, resize_gray
from featherglue.matching.consensus import fit_local_maps
from featherglue.matching.scratch import Scratch
from featherglue.matching.subpixel import refine_matches

SIZE = (640, 480)


def seconds(command: list[str], repetitions: int) -> float:
    """Median wall-clock seconds of a command in a fresh process."""
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def stage_times(first: Path, second: Path, threads: int, repetitions: int) -> dict[str, float]:
    """Median milliseconds of each stage, of all stages, and of refining up to 300 matches."""
    session = fg.load("fast", threads=threads, search="off")
    image0, image1 = (resize_gray(read_gray(path), SIZE) for path in (first, second))
    results = [session(image0, image1) for _ in range(repetitions + 3)][3:]
    medians = {
        stage: statistics.median(result.milliseconds[stage] for result in results)
        for stage in results[0].milliseconds
    }
    medians["total"] = statistics.median(sum(r.milliseconds.values()) for r in results)
    matches = results[0].matches
    count = min(300, len(matches))
    points0, points1 = matches.points0[:count], matches.points1[:count]
    # As in a session: consensus provides the local maps, and buffers are reused.
    maps, scratch, times = fit_local_maps(points0, points1), Scratch(), []
    for _ in range(repetitions * 5 + 5):
        start = time.perf_counter()
        refine_matches(image0, image1, points0, points1, scratch=scratch, maps=maps)
        times.append((time.perf_counter() - start) * 1e3)
    times = times[5:]
    medians[f"refine {count} matches"] = statistics.median(times)
    return medians


def environment_bytes() -> int:
    """Size of all files of the running Python environment, in bytes."""
    return sum(path.lstat().st_size for path in Path(sys.prefix).rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", type=Path, help="photograph")
    parser.add_argument("second", type=Path, help="overlapping photograph")
    parser.add_argument("--num-repetitions", type=positive, default=9)
    parser.add_argument("--threads", type=positive, default=2)
    options = parser.parse_args(arguments)
    cv2.setNumThreads(options.threads)
    python = [sys.executable, "-c"]
    bare = seconds([*python, "pass"], options.num_repetitions)
    imported = seconds([*python, "import featherglue"], options.num_repetitions)
    with tempfile.TemporaryDirectory() as folder:
        picture = str(Path(folder) / "matches.png")
        command = [sys.executable, "-m", "featherglue", "match", str(options.first)]
        command += [str(options.second), "-o", picture, "--threads", str(options.threads)]
        cold = seconds(command, options.num_repetitions)
    files = [path for path in find_model("fast").iterdir() if path.is_file()]
    stages = stage_times(options.first, options.second, options.threads, options.num_repetitions)
    report = {
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "threads": options.threads,
        "repetitions": options.num_repetitions,
        "import_seconds": round(imported - bare, 3),
        "cold_start_match_seconds": round(cold, 3),
        "environment_bytes": environment_bytes(),
        "fast_bytes": sum(path.stat().st_size for path in files),
        "milliseconds": {name: round(value, 2) for name, value in stages.items()},
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()

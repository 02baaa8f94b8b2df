"""Time frames in this checkout and in another one, which take turns at every frame.

    python benchmarks/versions.py FRAMES OTHER_CHECKOUT

Prints medians of wall-clock and processor time of a frame (its features and its matches with the
frame before), of this checkout and of the other one, and their ratio. Both use the Python
environment that runs this script; in a checkout, run `make test` once first, so that its kernels
are compiled.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from option_types import positive

# name: width, height and number of keypoints
SETTINGS = {
    "640×480, 512 keypoints": (640, 480, 512),
    "320×240, 256 keypoints": (320, 240, 256),
    "1024×768, 2048 keypoints": (1024, 768, 2048),
}
CHILD = """
import json, sys, time
from pathlib import Path
import cv2
import featherglue as fg

folder, width, height, count, threads = sys.argv[1], *map(int, sys.argv[2:])
cv2.setNumThreads(threads)
try:
    session = fg.load("fast", threads=threads, max_keypoints=count, search="off")
except TypeError:  # versions before the search
    session = fg.load("fast", threads=threads, max_keypoints=count)
match = getattr(session, "match_features", None) or session.match
paths = sorted(p for p in Path(folder).iterdir() if p.suffix in (".jpg", ".png"))[:30]
frames = [cv2.resize(cv2.imread(str(p), 0), (width, height)) for p in paths]
before = session.extract(frames[0])
print("ready", flush=True)
for number, _ in enumerate(sys.stdin, 1):
    wall, cpu = time.perf_counter(), time.process_time()
    features = session.extract(frames[number % len(frames)])
    match(before, features)
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
    before = features
"""


def start(checkout: Path, arguments: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        sys.exit(f"{checkout}: no session could be opened")
    return process


def measure(checkouts: list[Path], arguments: list[str], count: int) -> list[list[list[float]]]:
    """Wall-clock and processor time in ms of each frame, for each checkout."""
    processes = [start(checkout, arguments) for checkout in checkouts]
    times: list[list[list[float]]] = [[] for _ in checkouts]
    for number in range(count):
        for i in (0, 1) if number % 2 else (1, 0):
            process = processes[i]
            assert process.stdin is not None and process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            times[i].append([1e3 * value for value in json.loads(process.stdout.readline())])
    for process in processes:
        process.communicate()
    return [rows[count // 10 :] for rows in times]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("frames", type=Path, metavar="FRAMES", help="folder of photographs")
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT", help="another checkout")
    parser.add_argument("--repetitions", type=positive, default=200, help="number of frames")
    parser.add_argument("--threads", type=positive, default=2, help="threads of the networks")
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    print("| | ms, this | other | ratio | CPU ms, this | other | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, setting in SETTINGS.items():
        arguments = [str(options.frames), *map(str, setting), str(options.threads)]
        repetitions = max(20, options.repetitions // (4 if setting[2] > 1000 else 1))
        times = measure([here, options.other], arguments, repetitions)
        cells = []
        for column in range(2):
            this, other = (statistics.median(row[column] for row in rows) for rows in times)
            cells += [f"{this:.1f}", f"{other:.1f}", f"{this / other:.2f}"]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

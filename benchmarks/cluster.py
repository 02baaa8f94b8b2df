"""Extraction and matching by one process on one core, by several processes, and by a Ray cluster.

    python benchmarks/cluster.py PHOTOS --num-pairs 1500 --repetitions 3 --json FILE

| method | what works |
|---|---|
| one | one process on one core |
| threads | one process, a session with one thread per core |
| workers | one process per core, a session with one thread each |
| ray | a Ray cluster on this machine with one node of one core for each core |

The methods alternate. The time of a step is that of the whole call, with loading the model,
starting the processes and writing the file; `rate` is without them, from the first result to the
last one. `processor` is the processor time of a result in all processes, those of Ray included; it
depends less on other work of the machine. Pairs are each photograph with the following ones. Ray is
started before the measurement.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
from option_types import positive

from featherglue.collection.extraction import SessionSource, extract_features
from featherglue.collection.photo_frames import image_names
from featherglue.collection.store_matching import match_features
from featherglue.machine import num_cores
from featherglue.options import SessionOptions, make_options
from featherglue.session import Session, load

METHODS = ("one", "threads", "workers", "ray")
EXTRACTION, MATCHING = "extraction", "matching"


@dataclass(frozen=True, kw_only=True)
class ThreadedSource(SessionSource):
    """A source whose sessions have several threads."""

    threads: int

    def open(self) -> Session:
        return load(self.model, self.options, threads=self.threads, search="off")


@contextlib.contextmanager
def on_cores(cores: set[int]) -> Iterator[None]:
    """Run the body on these cores, with as many threads of OpenCV."""
    before, threads = os.sched_getaffinity(0), cv2.getNumThreads()
    os.sched_setaffinity(0, cores)
    cv2.setNumThreads(len(cores))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
        cv2.setNumThreads(threads)


@contextlib.contextmanager
def local_cluster(num_nodes: int) -> Iterator[str]:
    """The address of a Ray cluster with nodes of one core on this machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster  # noqa: PLC0415 (it is optional, and slow to import)

    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 200_000_000}
    cluster: Any = Cluster(
        initialize_head=True, head_node_args={**node, "include_dashboard": False}
    )
    try:
        for _ in range(num_nodes - 1):
            cluster.add_node(**node)
        yield cluster.address
    finally:
        cluster.shutdown()


def processor_seconds(process: int | str = "self") -> float:
    """Processor time of a process, its finished children and its descendants."""
    folder = Path("/proc") / str(process)
    try:
        fields = (folder / "stat").read_text().rpartition(") ")[2].split()
        children = [(task / "children").read_text().split() for task in (folder / "task").iterdir()]
    except OSError:  # it has ended
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(processor_seconds(child) for child in itertools.chain(*children))


class Clock:
    """The time of a call, and of the results within it."""

    def __init__(self) -> None:
        self.start, self.before, self.used = time.perf_counter(), processor_seconds(), 0.0
        self.times: list[float] = []

    def progress(self, completed: int, total: int) -> None:
        self.times.append(time.perf_counter())
        if completed == total:  # the processes still exist
            self.used = processor_seconds() - self.before

    def result(self) -> dict[str, float]:
        """Seconds of the call, results per second, and processor milliseconds of a result."""
        seconds = time.perf_counter() - self.start
        duration = self.times[-1] - self.times[0]
        return {
            "seconds": seconds,
            "rate": (len(self.times) - 1) / max(duration, 1e-9),
            "processor": 1000 * self.used / len(self.times),
        }


def following_pairs(names: list[str], count: int) -> list[tuple[str, str]]:
    """This many pairs of each photograph with the next ones, in the order of the first ones."""
    distance = range(1, len(names))
    pairs = ((i, i + k) for k in distance for i in range(len(names) - k))
    return [(names[i], names[k]) for i, k in sorted(itertools.islice(pairs, count))]


def measure(
    method: str,
    photos: Path,
    num_photos: int | None,
    num_pairs: int,
    model: str,
    address: str | None,
) -> dict[str, dict[str, float]]:
    """Seconds and rates of the steps by one method; without pairs, of the extraction alone."""
    options = make_options(SessionOptions(), max_keypoints=2048, resize=-1)
    cores = os.sched_getaffinity(0)
    used = {min(cores)} if method == "one" else cores
    workers = len(cores) if method == "workers" else None if method == "ray" else 1
    source = SessionSource(model=model, options=options)
    if method == "threads":
        source = ThreadedSource(model=model, options=options, threads=len(cores))
    names = image_names(photos)[:num_photos]
    pairs = following_pairs(names, num_pairs)
    settings: dict[str, Any] = {"workers": workers, "ray": address if method == "ray" else None}
    found = {}
    with tempfile.TemporaryDirectory() as folder, on_cores(used):
        features, matches = Path(folder) / "features.h5", Path(folder) / "matches.h5"
        steps: dict[str, Callable[[Clock], Any]] = {
            EXTRACTION: lambda clock: extract_features(
                photos, features, names, source, progress=clock.progress, **settings
            ),
            MATCHING: lambda clock: match_features(
                photos, features, matches, pairs, source, progress=clock.progress, **settings
            ),
        }
        for step, run in steps.items():
            if step == MATCHING and not pairs:
                continue
            clock = Clock()
            run(clock)
            found[step] = clock.result()
    return found


def table(runs: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    """Medians as a Markdown table; the ratios are those of runs that followed each other."""
    lines = [
        "| step | method | seconds | times as fast | results/s | times as fast | processor ms |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for step in runs["one"][0]:
        for method, results in runs.items():
            cells = []
            for name, form in (("seconds", "{:.1f}"), ("rate", "{:.1f}")):
                values = [result[step][name] for result in results]
                ratios = [
                    value / first[step][name] if name == "rate" else first[step][name] / value
                    for value, first in zip(values, runs["one"], strict=True)
                ]
                cells += [
                    form.format(statistics.median(values)),
                    f"{statistics.median(ratios):.2f}",
                ]
            used = statistics.median(result[step]["processor"] for result in results)
            cells.append(f"{used:.1f}")
            lines.append(f"| {step} | {method} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--methods", nargs="+", choices=METHODS[1:], default=METHODS[1:])
    parser.add_argument("--num-photos", type=positive, help="use the first ones only")
    parser.add_argument("--num-pairs", type=positive, default=1500)
    parser.add_argument("--model", default="fast")
    parser.add_argument("--repetitions", type=positive, default=3)
    parser.add_argument("--json", type=Path, help="write the numbers to this file")
    options = parser.parse_args(arguments)
    methods = ("one", *options.methods)
    runs: dict[str, list[dict[str, dict[str, float]]]] = {method: [] for method in methods}
    needs_ray = "ray" in methods
    with local_cluster(num_cores()) if needs_ray else contextlib.nullcontext() as address:
        for _ in range(options.repetitions):
            for method in methods:
                row = measure(
                    method,
                    options.photos,
                    options.num_photos,
                    options.num_pairs,
                    options.model,
                    address,
                )
                runs[method].append(row)
                print(f"{method}: {row}", flush=True)
                if options.json is not None:
                    options.json.write_text(json.dumps(runs, indent=1) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()

"""Accuracy and latency of featherglue, SIFT, ORB and optionally XFeat, measured in one run.

    python benchmarks/peers.py --val VAL --real REAL [--xfeat xfeat_640x640.onnx] [--dense FOLDER]
                               [--suites val real] -o results/ [--docs docs/benchmarks.md]

VAL holds images and `homographies.txt`, REAL holds images and `pairs.txt`. The output folder
receives one JSON result for each contender and suite, and the latencies of all contenders.
--suites measures some of them only. --docs renders the results as a page.

The contenders have 512 keypoints. `balanced` and a dense model have 1024, and SIFT and XFeat are
measured with 1024 as well. The search over rotation and scale is off; hard.py measures it. NumPy
uses one thread; see realtime.py for the reason.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

from option_types import positive
from tables import render
from xfeat import XFeat

from featherglue.artifact.registry import shipped_models
from featherglue.benchmarking import Contender, cold_start, summarize
from featherglue.evaluation import HomographySuite, PoseSuite, SessionOpener, evaluate
from featherglue.evaluation.openers import open_pipeline
from featherglue.evaluation.suites import Pipeline
from featherglue.io.files import write_image, write_json
from featherglue.io.gray import Gray
from featherglue.machine import describe_machine
from featherglue.options import SessionOptions
from featherglue.session import Session


@dataclass(frozen=True)
class Named:
    """A contender with its name in tables, and its number of keypoints."""

    name: str
    max_keypoints: int
    matching: Any


SUITES = ("val", "val-no-photometric", "real", "speed")
NUM_KEYPOINTS_LARGE = 1024  # of the larger models and of their comparisons


def contenders(options: argparse.Namespace) -> list[Named]:
    """featherglue and ablations of it, the classical baselines, and XFeat if its file is given."""
    count, threads, xfeat = options.max_keypoints, options.threads, options.xfeat
    large = NUM_KEYPOINTS_LARGE
    ours = {"max_keypoints": count, "threads": threads, "search": "off"}
    classical = {"matcher": "nn", "max_keypoints": count, "refine": False}
    found = [
        Named("fast", count, SessionOpener(**ours)),
        Named("fast, not refined", count, SessionOpener(**ours, refine=False)),
        Named("fast extractor + nn", count, SessionOpener(**ours, matcher="nn")),
        Named("SIFT", count, SessionOpener(**classical, features="sift")),
        Named(
            "SIFT, refined", count, SessionOpener(**classical | {"refine": True}, features="sift")
        ),
        Named("ORB", count, SessionOpener(**classical, features="orb")),
    ]
    if xfeat is not None:
        found.append(Named("XFeat", count, XFeat(xfeat, count, threads)))
        found.append(Named("XFeat, refined", count, XFeat(xfeat, count, threads, refine=True)))
    models = {name: name for name in ("balanced",) if name in shipped_models()}
    if options.dense is not None:
        models["dense"] = str(options.dense)
    for name, model in models.items():
        opener = SessionOpener(model=model, **ours | {"max_keypoints": large})
        found.append(Named(f"{name}, {large}", large, opener))
    if models:
        classical["max_keypoints"] = large
        found.append(Named(f"SIFT, {large}", large, SessionOpener(**classical, features="sift")))
        if xfeat is not None:
            found.append(Named(f"XFeat, {large}", large, XFeat(xfeat, large, threads)))
    return found


def latencies(
    named: Sequence[Named], images: tuple[Gray, Gray], repetitions: int
) -> list[dict[str, Any]]:
    """Latency of extraction from the second image and matching, interleaved by repetition.

    Sessions match as in a video: without guided matching.
    """
    opened = [_as_in_video(open_pipeline(contender.matching)) for contender in named]
    kept = [matching.extract(images[0]) for matching in opened]
    all_times: list[list[float]] = [[] for _ in opened]
    for repetition in range(repetitions + 3):
        for i, matching in enumerate(opened):
            start = time.perf_counter()
            matching.match(kept[i], matching.extract(images[1]))
            if repetition >= 3:
                all_times[i].append((time.perf_counter() - start) * 1e3)
    return [
        {
            "label": contender.name,
            "max_keypoints": contender.max_keypoints,
            "stages": {},
            "end_to_end": summarize(times).to_dict(),
            "frames_per_second": round(1e3 / statistics.median(times), 2),
        }
        for contender, times in zip(named, all_times, strict=True)
    ]


def _as_in_video(pipeline: Pipeline) -> Pipeline:
    """A pipeline with the settings of consecutive frames."""
    if isinstance(pipeline, Session):
        return pipeline.with_settings(guided_matching=False)
    return pipeline


def measure_suites(options: argparse.Namespace, named: Sequence[Named]) -> None:
    """Evaluate all contenders on the chosen suites, and write a result for each."""
    pair_file = options.val / "homographies.txt"
    suites: dict[str, HomographySuite | PoseSuite] = {
        "val": HomographySuite(folder=options.val, pair_file=pair_file),
        "val-no-photometric": HomographySuite(
            folder=options.val, pair_file=pair_file, photometric=False
        ),
        "real": PoseSuite(folder=options.real, pair_file=options.real / "pairs.txt"),
    }
    for key, suite in suites.items():
        if key not in options.suites:
            continue
        for contender in named:
            result = evaluate(contender.matching, suite).to_dict()
            count = contender.max_keypoints
            result["model"] |= {"name": contender.name, "max_keypoints": count}
            result["source"] = {}
            write_json(options.output / f"{key}-{contender.name.replace(' ', '-')}.json", result)
            figures = " / ".join(f"{value:.1f}" for value in result["auc"].values())
            print(f"{key:20} {contender.name:22} {figures}", flush=True)


def measure_speed(options: argparse.Namespace, named: Sequence[Named]) -> None:
    """Measure the latency of all contenders on the first pair of the val suite, and write it."""
    suite = HomographySuite(
        folder=options.val, pair_file=options.val / "homographies.txt", photometric=False
    )
    views = suite.views(suite.pairs()[0])
    rows = latencies(named, (views.image0, views.image1), options.num_repetitions)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "0.jpg", Path(folder) / "1.jpg"]
        for path, image in zip(paths, (views.image0, views.image1), strict=True):
            write_image(path, image)
        fast = Contender(label="fast", options=SessionOptions(threads=options.threads))
        start = cold_start(fast, paths)
        rows[0] |= {"cold_start_ms": start.cold_start_ms, "peak_bytes": start.peak_bytes}
    speed = {
        "format_version": 1,
        "kind": "benchmark",
        "command": base_command(options),
        "image_size": [640, 480],
        "repetitions": options.num_repetitions,
        "threads": options.threads,
        "machine": describe_machine(),
        "rows": rows,
    }
    write_json(options.output / "speed.json", speed)


def base_command(options: argparse.Namespace) -> str:
    """The command that measures these contenders, without folders of this machine."""
    return (
        "python benchmarks/peers.py --val VAL --real REAL"
        f"{' --xfeat xfeat_640x640.onnx' if options.xfeat else ''}"
        f"{f' --dense {options.dense}' if options.dense else ''}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Evaluate all contenders, measure their latency, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--val", type=Path, required=True, help="folder of the val suite")
    parser.add_argument("--real", type=Path, required=True, help="folder of the real pairs")
    parser.add_argument("--xfeat", type=Path, help="ONNX file of XFeat")
    parser.add_argument("--dense", type=Path, help="folder of a larger model")
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--num-repetitions", type=positive, default=30)
    parser.add_argument(
        "--suites",
        nargs="+",
        choices=SUITES,
        default=SUITES,
        help="what to measure; the output folder keeps earlier results of the others",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    parser.add_argument("--docs", type=Path, help="page to write, such as docs/benchmarks.md")
    options = parser.parse_args(arguments)
    named = contenders(options)
    measure_suites(options, named)
    if "speed" in options.suites:
        measure_speed(options, named)
    if options.docs is not None:
        try:
            text = render(options.output)
        except FileNotFoundError as error:
            parser.error(f"--docs needs all results, and {error.filename} is missing")
        options.docs.write_text(text)


if __name__ == "__main__":
    main()

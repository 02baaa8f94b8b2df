"""Hard pairs: wide baselines, indoor scenes, changed light, rotation and scale, unrelated images.

    python benchmarks/hard.py DATA [--xfeat xfeat_640x640.onnx] -o results/ [--json FILE]
                              [--docs docs/experiments/hard-pairs.md]

DATA holds the suites as folders: `val` (images and `homographies.txt`), `real` and `multiview/val`
(images and `pairs.txt`), `wide` and `illumination` (HPatches layout). A suite whose folder is
missing is left out. `invariance` and `unrelated` use the images of `val`.

`fast` and `balanced` are measured without and with the search, beside SIFT and XFeat (--xfeat).
AUC and accuracy are means over several orders of the matches (--num-orders).
Every contender has one result file for each suite in the output folder. A file that exists is not
measured again, unless the images, weights, settings or code have changed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # read when NumPy is imported

import cv2
import invariance
import match_orders
import numpy as np
from match_orders import ordered_summary
from option_types import positive
from xfeat import XFeat

import featherglue as fg
from featherglue.errors import EstimationError, counted
from featherglue.evaluation import HomographySuite, HPatchesSuite, PoseSuite
from featherglue.evaluation.openers import describe
from featherglue.evaluation.pair_evaluation import PairEvaluator
from featherglue.fingerprint import code_fingerprint, file_fingerprint, file_state, fingerprint
from featherglue.io.files import write_json
from featherglue.io.image import list_images, read_gray
from featherglue.io.markdown import wrap_paragraphs
from featherglue.machine import describe_machine

Pipeline = Any  # has `extract` and `match`
CHANCE = 15  # inliers of a fundamental matrix that chance does not explain


@dataclass(frozen=True)
class Suite:
    """One row of figures of the table.

    Attributes:
        key: name in file names and results.
        title: heading of its table.
        measure: measures a pipeline on a number of pairs, None for all.
        figures: heading -> path of a figure in the result.
        source: files that determine the pairs.
    """

    key: str
    title: str
    measure: Callable[[Pipeline, int | None], Mapping[str, Any]]
    figures: Mapping[str, tuple[str, ...]]
    source: Sequence[Path]


def homography_figures(*thresholds: int) -> dict[str, tuple[str, ...]]:
    """AUC by RANSAC and by RANSAC with local optimization, precision and recall."""
    return {
        **{f"AUC@{t}": ("auc", str(t)) for t in thresholds},
        **{f"optimized AUC@{t}": ("auc_lo", str(t)) for t in thresholds},
        "precision": ("precision",),
        "recall": ("recall",),
    }


POSE_FIGURES = {
    **{f"AUC@{t}°": ("auc", str(t)) for t in (5, 10, 20)},
    **{f"optimized AUC@{t}°": ("auc_lo", str(t)) for t in (5, 10, 20)},
    "precision": ("precision",),
    "matches": ("matches",),
}


def suites(data: Path, num_photos: int, num_orders: int) -> list[Suite]:
    """The suites whose folders exist; their AUC is the mean over orders of the matches."""

    def evaluated(suite: Any) -> Callable[[Pipeline, int | None], Mapping[str, Any]]:
        def measure(pipeline: Pipeline, num_pairs: int | None) -> Mapping[str, Any]:
            match = PairEvaluator(pipeline, suite).match
            return ordered_summary(match, suite, suite.pairs()[:num_pairs], num_orders)

        return measure

    def poses(key: str, title: str) -> Suite:
        folder = data / key
        suite = PoseSuite(folder=folder, pair_file=folder / "pairs.txt")
        files = [folder / "pairs.txt", *sorted(folder.rglob("*.jpg"))]
        return Suite(key, title, evaluated(suite), POSE_FIGURES, files)

    def planes(key: str, title: str) -> Suite:
        suite = HPatchesSuite(folder=data / key)
        figures = homography_figures(3, 5) | {"accuracy@3": ("accuracy", "3")}
        images = sorted(path for path in (data / key).rglob("*") if path.is_file())
        return Suite(key, title, evaluated(suite), figures, images)

    photos = list_images(data / "val") if (data / "val").is_dir() else []
    homographies = HomographySuite(
        folder=data / "val", pair_file=data / "val" / "homographies.txt", photometric=True
    )
    changes = [f"rotated by {d}°" for d in invariance.DEGREES]
    changes += [f"scaled to {f:g}" for f in invariance.FACTORS]
    found = [
        Suite(
            "val",
            "Homographies with photometric change: corner error in px",
            evaluated(homographies),
            homography_figures(5, 10, 25),
            [data / "val" / "homographies.txt", *photos],
        ),
        poses("real", "Relative poses, outdoor scenes and objects: degrees"),
        poses("multiview/val", "Relative poses, 13 scenes, mostly indoor: degrees"),
        planes("wide", "Homographies with changed light, weather and season: corner error in px"),
        planes("illumination", "Fixed cameras, changed light, weather and season"),
        Suite(
            "invariance",
            "Rotation and scale: mean number of true matches",
            lambda pipeline, num: true_matches(pipeline, photos, num or num_photos),
            {change: (change,) for change in changes},
            photos,
        ),
        Suite(
            "unrelated",
            "Unrelated photographs",
            lambda pipeline, num: unrelated(pipeline, photos, num or len(photos)),
            {
                "mean matches": ("mean_matches",),
                "most matches": ("most_matches",),
                "pairs that pass verification": ("verified",),
                "pairs": ("pairs",),
            },
            photos,
        ),
    ]
    return [suite for suite in found if suite.source and suite.source[0].is_file()]


def chosen_photos(paths: Sequence[Path], count: int) -> list[np.ndarray]:
    """Evenly spaced photographs at 640×480."""
    step = max(1, len(paths) // count)
    size = invariance.SIZE
    return [
        cv2.resize(read_gray(path), size, interpolation=cv2.INTER_AREA)
        for path in paths[::step][:count]
    ]


def matched(pipeline: Pipeline, image0: np.ndarray, image1: np.ndarray) -> fg.MatchResult:
    """The matches of two images."""
    result = pipeline.match(pipeline.extract(image0), pipeline.extract(image1))
    assert isinstance(result, fg.MatchResult)
    return result


def true_matches(pipeline: Pipeline, paths: Sequence[Path], count: int) -> dict[str, Any]:
    """Mean number of true matches by change; see invariance.py."""
    found: dict[str, list[int]] = {}
    for change, image0, image1, H in invariance.pairs(chosen_photos(paths, count)):
        if H is not None:
            result = matched(pipeline, image0, image1)
            found.setdefault(change, []).append(invariance.num_true(result, H))
    return {change: statistics.fmean(values) for change, values in found.items()}


def unrelated(pipeline: Pipeline, paths: Sequence[Path], count: int) -> dict[str, Any]:
    """Matches of every photograph with the next one, and the pairs that pass verification."""
    photos = chosen_photos(paths, count)
    numbers, verified = [], 0
    for image0, image1 in zip(photos, photos[1:] + photos[:1], strict=True):
        result = matched(pipeline, image0, image1)
        numbers.append(len(result.matches))
        with contextlib.suppress(EstimationError):
            verified += result.fundamental().num_inliers >= CHANCE
    return {
        "mean_matches": statistics.fmean(numbers),
        "most_matches": max(numbers),
        "verified": verified,
        "pairs": len(numbers),
    }


def contenders(options: argparse.Namespace) -> dict[str, Callable[[], Pipeline]]:
    """Functions that open the pipelines, by the name in tables."""
    count, large = options.max_keypoints, options.max_keypoints_large
    threads = options.threads

    def ours(model: str, most: int, search: str) -> Callable[[], Pipeline]:
        return lambda: fg.load(model, max_keypoints=most, threads=threads, search=search)

    found: dict[str, Callable[[], Pipeline]] = {}
    for model in options.models:
        most = large if model == "balanced" else count
        for search in ("off", "auto"):
            found[f"{model}, {most}, search {search}"] = ours(model, most, search)
    found[f"SIFT, {count}"] = lambda: fg.load(
        features="sift",
        matcher="nn",
        max_keypoints=count,
        threads=threads,
        refine=False,
        search="off",
    )
    if options.xfeat is not None:
        found[f"XFeat, {count}"] = lambda: XFeat(options.xfeat, count, threads)
    return found


def key_of(pipeline: Pipeline, suite: Suite, options: argparse.Namespace) -> str:
    """Fingerprint of all that determines a result."""
    weights = None if isinstance(pipeline, fg.Session) else file_fingerprint(options.xfeat)
    numbers = [options.num_orders, options.max_keypoints, options.num_photos, options.num_pairs]
    sources = [file_state(path) for path in suite.source]
    scripts = (__file__, str(invariance.__file__), str(match_orders.__file__))
    script = [file_fingerprint(path) for path in scripts]
    return fingerprint(
        describe(pipeline), weights, numbers, sources, script, code_fingerprint(), suite.key
    )


def figure(result: Mapping[str, Any], path: Sequence[str]) -> str:
    """A figure of a result as text."""
    value: Any = result
    for name in path:
        value = value[name]
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def table(suite: Suite, results: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table: a row for each contender; a row for each change if there are many."""
    names, headings = list(results), list(suite.figures)
    cells = [[figure(results[n], path) for path in suite.figures.values()] for n in names]
    if len(headings) > 8:
        names, headings, cells = headings, names, [list(row) for row in zip(*cells, strict=True)]
    lines = [f"| | {' | '.join(headings)} |", f"|---|{'---:|' * len(headings)}"]
    lines += [f"| {n} | {' | '.join(row)} |" for n, row in zip(names, cells, strict=True)]
    return "\n".join(lines)


def page(measured: Mapping[str, Any], chosen: Sequence[Suite], command: str) -> str:
    """The tables as a page of the documentation."""
    parts = [
        "# Hard pairs\n",
        "One command measures and writes this page:\n",
        f"```bash\n{command}\n```\n",
        "A name states the model, the maximum number of keypoints, and the setting `search`. AUC "
        "is in percent, by OpenCV's RANSAC, and by RANSAC with local optimization (*optimized*). "
        "SIFT and XFeat are matched by mutual nearest neighbors, without a search. Unrelated "
        "photographs must not match: a pair passes verification if a fundamental matrix has "
        f"{CHANCE} inliers. [Metrics](../reference/metrics.md) defines the figures.\n",
        f"Measured in {measured['date']} on {measured['machine']['processor']} with "
        f"{counted(measured['threads'], 'thread')}. AUC and accuracy are means over "
        f"{counted(measured['num_orders'], 'order')} of the matches, because RANSAC's result "
        "[depends on the order](accuracy-variance.md). The fixed cameras "
        "[moved by up to 1.7 px](accuracy-variance.md#cameras-that-moved), which costs every "
        "method accuracy.\n",
        "A turned or shrunk copy is a whole photograph. XFeat's graph enlarges every image to "
        "640 px, so that it sees a shrunk copy at the scale of the original. Other methods see the "
        "images at their own size.\n",
    ]
    for suite in chosen:
        parts += [f"## {suite.title}\n", table(suite, measured["results"][suite.key]) + "\n"]
    return wrap_paragraphs("\n".join(parts))


def main(arguments: list[str] | None = None) -> None:
    """Measure what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of the suites")
    parser.add_argument("--xfeat", type=Path, help="ONNX file of XFeat")
    parser.add_argument(
        "--models", nargs="+", default=["fast", "balanced"], help="names or folders of models"
    )
    parser.add_argument("--max-keypoints", type=positive, default=512)
    parser.add_argument("--max-keypoints-large", type=positive, default=1024, help="for balanced")
    parser.add_argument("--num-photos", type=positive, default=32, help="for the invariance table")
    parser.add_argument("--num-pairs", type=positive, help="maximum number of pairs of a suite")
    parser.add_argument(
        "--num-orders",
        type=positive,
        default=5,
        help="orders of the matches, whose AUC is averaged",
    )
    parser.add_argument("--threads", type=positive, default=2)
    parser.add_argument("--only", nargs="*", help="keys of suites; all by default")
    parser.add_argument("-o", "--output", type=Path, default=Path("results"))
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--docs", type=Path, help="page to write")
    options = parser.parse_args(arguments)
    chosen = suites(options.data, options.num_photos, options.num_orders)
    if options.only:
        unknown = sorted(set(options.only) - {suite.key for suite in chosen})
        if unknown:
            parser.error(f"--only: no suite {unknown[0]!r} in {options.data}")
        chosen = [suite for suite in chosen if suite.key in options.only]
    if not chosen:
        parser.error(f"{options.data} holds none of the suites")
    cv2.setNumThreads(options.threads)
    results: dict[str, dict[str, Any]] = {suite.key: {} for suite in chosen}
    for name, open_pipeline in contenders(options).items():
        pipeline = open_pipeline()
        for suite in chosen:
            key = key_of(pipeline, suite, options)
            stem = f"{suite.key}-{name}".replace("/", "-").replace(", ", "-").replace(" ", "-")
            path = options.output / f"{stem}.json"
            stored = json.loads(path.read_text()) if path.is_file() else {}
            if stored.get("key") != key:
                stored = {"key": key, "result": suite.measure(pipeline, options.num_pairs)}
                write_json(path, stored)
            results[suite.key][name] = stored["result"]
            shown = [f"{h} {figure(stored['result'], p)}" for h, p in suite.figures.items()]
            print(f"{suite.key:14} {name:28} {', '.join(shown[:6])}", flush=True)
    measured = {
        "date": f"{datetime.date.today():%B %Y}",
        "machine": describe_machine(),
        "threads": options.threads,
        "num_orders": options.num_orders,
        "results": results,
    }
    for suite in chosen:
        print(f"\n{suite.title}\n\n{table(suite, results[suite.key])}")
    if options.json is not None:
        write_json(options.json, measured)
    if options.docs is not None:
        command = (
            "python benchmarks/hard.py DATA --xfeat xfeat_640x640.onnx "
            "-o results/ --docs docs/experiments/hard-pairs.md"
        )
        options.docs.write_text(page(measured, chosen, command))


if __name__ == "__main__":
    main()

"""Compress the shipped models in several ways and write the tables of docs/how-to/compress.md.

python -m studies.compression.shipped --images PHOTOS --val VAL --list VAL/homographies.txt

A stopped run continues: models and measurements that exist are kept in --work and shipped.json.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.artifact.format import load_artifact
from featherglue.artifact.registry import find_model
from featherglue.benchmarking import draw_frames
from featherglue.compression.cost import model_cost
from featherglue.errors import UsageError
from featherglue.evaluation import HomographySuite, SessionOpener, evaluate
from featherglue.io.files import atomic_write, write_json
from featherglue.io.markdown import wrap_paragraphs
from featherglue.io.tables import format_table
from featherglue.session import load
from studies.compression.commands import (
    PLAIN,
    date_and_machine,
    exit_code,
    new_parser,
    stored_results,
)

MODELS = ("fast", "balanced")
# Variant → title and the commands that make it from MODEL in OUT; PHOTOS are calibration images.
VARIANTS: dict[str, tuple[str, tuple[tuple[str, ...], ...]]] = {
    "shipped": ("as shipped, float16", ()),
    "linear-8": (
        "8-bit integers, weights and activations",
        (("quantize", "--model", "MODEL", "-o", "OUT", "--calibration-images", "PHOTOS"),),
    ),
    "codebook-6": (
        "k-means, 6 bits",
        (("quantize", "--model", "MODEL", "-o", "OUT", "--scheme", "codebook", "--bits", "6"),),
    ),
    "pruned": (
        "30 % pruned, k-means 6 bits, Huffman",
        (
            ("prune", "--model", "MODEL", "-o", "STEP", "--ratio", "0.3"),
            ("quantize", "--model", "STEP", "-o", "OUT", "--scheme", "codebook", "--bits", "6"),
        ),
    ),
}
_START, _END = "<!-- measured: start -->", "<!-- measured: end -->"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = new_parser("shipped", __doc__)
    add = parser.add_argument
    add("--images", type=Path, required=True, help="photographs for calibration")
    add("--model", dest="models", choices=MODELS, action="append", help="model; both by default")
    add("--num-pairs", type=int, default=64, help="number of pairs of an accuracy")
    add("--num-repetitions", type=int, default=15, help="repetitions of a latency")
    add("--page", type=Path, default=Path("docs/how-to/compress.md"), help="page of the tables")
    return parser.parse_args(arguments)


def commands(model: str, variant: str) -> list[str]:
    """Return the commands that a user types to make a variant."""
    words = {"MODEL": model, "OUT": f"{model}-{variant}/", "STEP": "pruned/", "PHOTOS": "photos/"}
    return [
        " ".join(("featherglue", *(words.get(word, word) for word in command)))
        for command in VARIANTS[variant][1]
    ]


def make(model: str, variant: str, options: argparse.Namespace) -> Path:
    """Make a variant, if it does not exist, and return its folder."""
    if variant == "shipped":
        return Path(find_model(model))
    folder = options.work / f"{model}-{variant}"
    step = options.work / f"{model}-{variant}-step"
    words = {"MODEL": model, "OUT": folder, "STEP": step, "PHOTOS": options.images}
    for command in () if folder.exists() else VARIANTS[variant][1]:
        given = [str(words.get(word, word)) for word in command]
        program = [sys.executable, "-m", "featherglue", *given]
        if subprocess.run(program, check=False, timeout=3600).returncode:
            raise UsageError(f"cannot make {model} {variant}")
    shutil.rmtree(step, ignore_errors=True)
    return Path(folder)


def measure(folder: Path, suite: HomographySuite, num_pairs: int) -> dict[str, Any]:
    """Return the size of a model in bytes and its accuracy in percent."""
    artifact = load_artifact(folder)
    opener = SessionOpener(model=str(folder), threads=2, **PLAIN)
    summary = evaluate(opener, suite, num_pairs=num_pairs).summary
    kept = {name: summary[name] for name in ("auc", "precision", "recall", "pairs")}
    return {"bytes": model_cost(artifact).bytes_on_disk, "fingerprint": artifact.fingerprint} | kept


def latencies(folders: Mapping[str, Path], repetitions: int) -> dict[str, float]:
    """Return the median CPU time in ms of a 640×480 frame by model, with one thread, in turn."""
    first, second = draw_frames((640, 480))
    sessions = {
        name: load(str(folder), threads=1, max_keypoints=512, **PLAIN)
        for name, folder in folders.items()
    }
    previous = {name: session.extract(first) for name, session in sessions.items()}
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for repetition in range(repetitions + 1):
        for name, session in sessions.items():
            start = time.process_time()
            session.match(previous[name], session.extract(second))
            if repetition:
                times[name].append(1e3 * (time.process_time() - start))
    return {name: round(float(np.median(each)), 1) for name, each in times.items()}


def tables(results: Mapping[str, Any]) -> str:
    """Return the tables of the page as Markdown."""
    head = ["variant", "bytes", "AUC@5 / 10 / 25 px", "precision, %", "recall, %", "ms"]
    parts = []
    for model in sorted({name.split()[0] for name in results["rows"]}, key=MODELS.index):
        rows = []
        for variant, (title, _) in VARIANTS.items():
            row = results["rows"][f"{model} {variant}"]
            areas = " / ".join(f"{row['auc'][name]:.1f}" for name in ("5", "10", "25"))
            numbers = [f"{row[name]:.1f}" for name in ("precision", "recall")]
            ms = f"{results['ms'][f'{model} {variant}']:.1f}"
            rows.append([title, f"{row['bytes']:,}", areas, *numbers, ms])
        parts.append(f"### `{model}`\n\n{format_table(head, rows)}\n")
    pairs = results["rows"][f"{MODELS[0]} shipped"]["pairs"]
    parts.append(
        f"{pairs} pairs of photographs with photometric change "
        "([metrics](../reference/metrics.md)), without fine-tuning. *ms* is the CPU time of a "
        "640×480 frame and its match with the previous frame, 512 keypoints, one thread, all "
        f"variants in turn, on {results['machine']['processor']}, "
        f"{results['date']}:\n\n```bash\n{results['command']}\n```\n"
    )
    return wrap_paragraphs("\n".join(parts))


def write_page(path: Path, results: Mapping[str, Any]) -> None:
    """Replace the measured part of the page."""
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(_START)
    after = rest.split(_END)[1]
    with atomic_write(path) as file:
        file.write(f"{before}{_START}\n\n{tables(results)}\n{_END}{after}".encode())


def run(options: argparse.Namespace) -> None:
    """Make and measure all variants, and write the results and the page."""
    suite = HomographySuite(folder=options.val, pair_file=options.list)
    results = {"rows": {}} | stored_results(options.output)
    folders = {}
    for model in options.models or MODELS:
        for variant in VARIANTS:
            name = f"{model} {variant}"
            folders[name] = make(model, variant, options)
            found = load_artifact(folders[name]).fingerprint
            if results["rows"].get(name, {}).get("fingerprint") != found:
                results["rows"][name] = measure(folders[name], suite, options.num_pairs)
                write_json(options.output, results)
                print(name, results["rows"][name], flush=True)
    results["ms"] = latencies(folders, options.num_repetitions)
    results |= date_and_machine()
    results["command"] = (
        "python -m studies.compression.shipped --images PHOTOS --val VAL "
        f"--list VAL/homographies.txt --num-pairs {options.num_pairs}"
        + "".join(f" --model {model}" for model in options.models or ())
    )
    write_json(options.output, results)
    write_page(options.page, results)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements and return the exit code."""
    options = parse(arguments)
    return exit_code(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())

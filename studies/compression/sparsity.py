"""Measure what zero weights gain on a processor without hardware for them.

python -m studies.compression.sparsity --model checkpoints/dense --study runs/study \\
    --val VAL --list VAL/homographies.txt

Measures single layers, whole frames and accuracy, and writes sparsity.json, a part at a time. A
stopped run continues with the next part; `--only` measures a part again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import load_artifact, save_artifact
from featherglue.benchmarking import draw_frames
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.compression.steps import fold
from featherglue.evaluation import HomographySuite
from featherglue.io.files import write_json
from featherglue.models.model import Model
from featherglue.runtime.sparse_ import zero_fractions
from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig
from featherglue.session import load
from studies.compression.commands import (
    PLAIN,
    date_and_machine,
    exit_code,
    new_parser,
    stored_results,
)
from studies.compression.sparsity_layers import limits, measure_layers

_MATCHER = ("matcher.*",)
# Title → pruning of the dense model without fine-tuning.
PRUNED = {
    "SuperGlue 2:4": PruneConfig(pattern="2:4", include=("matcher.gnn.*", "matcher.final_proj")),
    "SuperGlue 89 %": PruneConfig(ratio=0.89, include=_MATCHER),
    "SuperGlue 89 %, 4×1": PruneConfig(ratio=0.89, pattern="4x1", include=_MATCHER),
    "SuperGlue 89 %, 1×8": PruneConfig(ratio=0.89, pattern="1x8", include=_MATCHER),
}
# Title → name of a model of the study, fine-tuned.
TUNED = {
    "SuperPoint 60 %, SuperGlue 89 %, fine-tuned": "prune-kmeans-huffman",
    "structured, 25 % of the MACs, fine-tuned": "macs-25",
    "structured, 10 % of the MACs, fine-tuned": "macs-10",
}
# Title of a model → runtimes whose frames are measured.
FRAMES = {
    "dense": ("native",),
    "SuperGlue 2:4": ("sparse",),
    "SuperGlue 89 %": ("sparse",),
    "SuperGlue 89 %, 4×1": ("sparse",),
    "SuperGlue 89 %, 1×8": ("sparse",),
    "SuperPoint 60 %, SuperGlue 89 %, fine-tuned": ("onnxruntime", "openvino", "native", "sparse"),
    "structured, 25 % of the MACs, fine-tuned": ("onnxruntime", "openvino", "native"),
    "structured, 10 % of the MACs, fine-tuned": ("onnxruntime", "openvino", "native"),
}
# Ratios whose accuracy is measured for each pattern.
_RATIOS = {"": (0.5, 0.7), "4x1": (0.5, 0.7), "1x8": (0.5, 0.7)}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = new_parser("sparsity", __doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the dense model")
    add("--study", type=Path, required=True, help="folder of the fine-tuned models of the study")
    add("--num-pairs", type=int, default=24, help="number of pairs of an accuracy")
    add("--num-repetitions", type=int, default=7, help="repetitions of a latency")
    add(
        "--only",
        choices=("limits", "layers", "frames-1", "frames-2", "accuracy"),
        action="append",
        default=[],
    )
    return parser.parse_args(arguments)


def tuned_folder(study: Path, name: str) -> Path:
    """Folder of a fine-tuned model, in the work folder of the study or in `checkpoints/study`."""
    after = study / name / "after"
    return after if after.is_dir() else study / name


def make_models(model: Model, options: argparse.Namespace) -> dict[str, Path]:
    """Return the folders of all models of the frames by title. Missing ones are written.

    The models of the study are decoded once: Huffman codes take long to read. Those that are not
    stored are left out.
    """
    titles = ("dense", *PRUNED, *TUNED)
    folders = {title: options.work / f"model-{i}" for i, title in enumerate(titles)}
    for title, folder in list(folders.items()):
        if folder.exists():
            continue
        if title in TUNED and not tuned_folder(options.study, TUNED[title]).is_dir():
            print(f"{title}: left out, because {TUNED[title]} is not in {options.study}")
            del folders[title]
            continue
        if title in PRUNED:
            prune(model, PRUNED[title]).save(folder)
        elif title in TUNED:
            tuned = load_artifact(tuned_folder(options.study, TUNED[title]))
            save_artifact(folder, dataclasses.replace(tuned, quantization=Quantization()))
        else:
            model.save(folder)
    return folders


def measure_frames(
    folders: dict[str, Path], threads: int, repetitions: int
) -> list[dict[str, Any]]:
    """Return ms of a 640×480 frame with 512 keypoints by model and runtime.

    A frame is an extraction and a match with the previous frame. All sessions run in turn. With one
    thread the time is CPU time, which other programs do not disturb.
    """
    found = []
    zeros = {title: zero_fractions(load_artifact(folder)) for title, folder in folders.items()}
    first, second = draw_frames((640, 480))
    sessions = {
        (title, name): load(
            str(folders[title]),
            runtime=name,
            max_keypoints=512,
            threads=threads,
            **PLAIN,
        )
        for title, names in FRAMES.items()
        if title in folders
        for name in names
    }
    clock = time.process_time if threads == 1 else time.perf_counter
    times: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in sessions}
    previous = {key: session.extract(first) for key, session in sessions.items()}
    for _ in range(repetitions):
        for key, session in sessions.items():
            start = clock()
            features = session.extract(second)
            middle = clock()
            session.match(previous[key], features)
            times[key].append((middle - start, clock() - middle))
    for (title, name), each in times.items():
        extract, match = 1e3 * np.median(np.array(each), axis=0)
        total = 1e3 * float(np.median([sum(both) for both in each]))
        row = {"model": title, "runtime": name, "threads": threads, "ms": round(total, 1)}
        row |= {"extract": round(float(extract), 1), "match": round(float(match), 1)}
        found.append(row | {"zeros": zeros[title]})
        print(f"  {title}, {name}, {threads} threads: {total:.0f} ms", flush=True)
    return found


def measure_accuracy(
    model: Model, folders: dict[str, Path], suite: HomographySuite, num_pairs: int
) -> dict[str, Any]:
    """Return the scores of all models, and those of SuperGlue by pattern and ratio."""
    scorer = HomographyScorer(model, suite, ScoringConfig(num_pairs=num_pairs, refine=True))

    def score(title: str, changed: Model) -> dict[str, float]:
        scores = {name: round(value, 2) for name, value in scorer(changed).items()}
        print(f"  {title}: {scores}", flush=True)
        return scores

    models = {
        title: score(title, Model.from_artifact(load_artifact(folder)))
        for title, folder in folders.items()
    }
    ratios = []
    for pattern, tried in _RATIOS.items():
        for ratio in tried:
            config = PruneConfig(ratio=ratio, pattern=pattern, include=_MATCHER)
            title = f"{pattern or 'single'} {ratio}"
            scores = score(title, prune(model, config))
            ratios.append({"pattern": pattern, "ratio": ratio, **scores})
    return {"pairs": len(scorer.views), "models": models, "ratios": ratios}


def run(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """Measure the parts that are missing or asked for; return the content of sparsity.json."""
    model = fold(Model.from_artifact(load_artifact(options.model)))
    results = stored_results(options.output)
    folders = make_models(model, options)
    suite = HomographySuite(folder=options.val, pair_file=options.list)
    repetitions = options.num_repetitions
    parts: dict[str, Callable[[], Any]] = {
        "limits": limits,
        "layers": lambda: {"rows": measure_layers(model, repetitions)},
        "frames-1": lambda: {"rows": measure_frames(folders, 1, repetitions)},
        "frames-2": lambda: {"rows": measure_frames(folders, 2, repetitions)},
        "accuracy": lambda: measure_accuracy(model, folders, suite, options.num_pairs),
    }
    for name, measure in parts.items():
        if name in options.only or (name not in results and not options.only):
            print(name, flush=True)
            results[name] = {"command": command, **date_and_machine()} | measure()
            write_json(options.output, results)
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the measurements and return the exit code."""
    options = parse(arguments)
    command = (
        f"python -m studies.compression.sparsity --model {options.model} "
        "--study checkpoints/study --val VAL --list VAL/homographies.txt "
        f"--num-pairs {options.num_pairs} --num-repetitions {options.num_repetitions}"
    )
    return exit_code(lambda: run(options, command))


if __name__ == "__main__":
    sys.exit(main())

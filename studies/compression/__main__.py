"""Repeat the experiments of the reference study with a dense model.

python -m studies.compression --model checkpoints/dense --images PHOTOS --val VAL \\
    --list VAL/homographies.txt [--quick] [--minutes 60] [--only kmeans-4 --only macs-10]

Makes every model, measures it before and after fine-tuning, scans the sensitivity of each layer,
and writes results.json, docs/compression.md and its figures. It prints the estimated time before
it starts. A stopped run continues. The models stay in --work.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.compression.commands import exit_code
from studies.compression.speed import KEYPOINTS
from studies.compression.study import Study

_HERE = Path("studies/compression")
# Option → its default without and with --quick.
_MEASURED: Mapping[str, tuple[Any, Any]] = {
    "minutes": (60.0, 0.0),
    "num_pairs": (None, 16),
    "num_repetitions": (5, 1),
    "num_calibration_images": (48, 4),
    "scan_minutes": (60.0, 2.0),
    "num_scan_pairs": (32, 8),
    "num_explanation_pairs": (64, 4),
    "allocate_sparsities": ([0.5, 0.8], []),
    "keypoints": (list(KEYPOINTS), [128, 512, 1024]),
    "num_rounds": (5, 1),
    "num_sparsity_repetitions": (5, 0),
}

_SKIPPED_BY_ZERO = (
    "num_repetitions",
    "scan_minutes",
    "num_explanation_pairs",
    "num_rounds",
    "num_sparsity_repetitions",
    "allocate_sparsities",
)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m studies.compression",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of the dense model")
    add("--images", type=Path, required=True, help="photographs for calibration and fine-tuning")
    add("--val", type=Path, required=True, help="folder of the val images")
    add("--list", type=Path, required=True, help="list of the val images and homographies")
    add(
        "--quick",
        action="store_true",
        help="16 pairs, no fine-tuning and short measurements. The results and the page are "
        "written to --work",
    )
    add("--minutes", type=float, help="time to fine-tune each model; 0 skips it")
    add("--steps", type=int, default=0, help="steps of each fine-tuning, instead of a time")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="device for fine-tuning")
    add(
        "--make-only",
        action="store_true",
        help="make the models and measure nothing. The same command without this option measures "
        "them on another machine that has the same photographs and a copy of --work",
    )
    add(
        "--keep-rows",
        action="store_true",
        help="make no models: keep the accuracies and sizes of the stored results, and measure the "
        "rest again",
    )
    add("--only", action="append", default=[], metavar="NAME", help="run only this experiment")
    add("--num-pairs", type=int, help="number of val pairs; all by default")
    add("--threads", type=int, default=2, help="number of threads that measure accuracy")
    add(
        "--timing-threads",
        type=int,
        default=1,
        help="number of threads of latencies; with 1, they are CPU times, which other programs "
        "disturb little",
    )
    add("--jobs", type=int, default=1, help="number of processes that measure accuracy")
    add("--num-repetitions", type=int, help="repetitions of a latency; 0 skips it")
    add("--num-calibration-images", type=int, help="number of calibration images")
    add("--size", type=int, nargs=2, default=[640, 480], help="width and height of images")
    add("--scan-minutes", type=float, help="time of the sensitivity scan; 0 skips it")
    add("--num-scan-pairs", type=int, help="number of pairs of the sensitivity scan")
    add("--scan-keypoints", type=int, default=256, help="keypoints of an image in the scan")
    add(
        "--scan-jobs",
        type=int,
        choices=(1, 2),
        default=1,
        help="number of processes of the scan; with 2, one prunes and one quantizes",
    )
    add(
        "--scan-from",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="add the scores of scans in these folders, of the same model with the same settings",
    )
    add(
        "--allocate-sparsities",
        type=float,
        nargs="*",
        help="total sparsities at which the allocation by the scan is compared with one ratio",
    )
    add("--allocate", action="store_true", help="allocate pruning ratios by the sensitivity scan")
    add("--num-explanation-pairs", type=int, help="pairs of explanations; 0 skips them")
    add("--keypoints", type=int, nargs="+", help="keypoints of Figure 3")
    add("--num-rounds", type=int, help="repetitions of Figure 3; 0 skips it")
    add(
        "--num-sparsity-repetitions",
        type=int,
        help="repetitions of the times of sparse layers and frames; 0 skips the section on zeros",
    )
    add("--num-sparsity-pairs", type=int, default=32, help="pairs of the section on zeros")
    add("--xfeat", type=Path, help="ONNX file of XFeat, a line in Figure 3")
    add(
        "--shipped",
        nargs="*",
        default=["balanced", "fast"],
        metavar="MODEL",
        help="models whose size and speed are measured beside those of the study",
    )
    add(
        "--finished",
        type=Path,
        default=Path("checkpoints/study"),
        help="folder of finished models of the study, whose speed is measured",
    )
    add("--recipes", type=Path, default=_HERE / "recipes", help="folder of the recipes")
    add("--finetune", type=Path, default=_HERE / "finetune.toml", help="settings of fine-tuning")
    add("--work", type=Path, help="folder of models and the journal")
    add("--output", type=Path, help="file of the results")
    add("--page", type=Path, help="file of the page")
    options = parser.parse_args(arguments)
    for name, defaults in _MEASURED.items():
        if getattr(options, name) is None:
            setattr(options, name, defaults[options.quick])
    options.work = options.work or Path("runs/quick-study" if options.quick else "runs/study")
    output, page = _HERE / "results.json", Path("docs/compression.md")
    if options.quick:
        output, page = options.work / "results.json", options.work / "compression.md"
    options.output, options.page = options.output or output, options.page or page
    return options


def reproducing_command(options: argparse.Namespace) -> str:
    """Return the command that makes the whole page, with placeholders for the data.

    Options that restrict a run to a part are left out: the page keeps the other parts. So are the
    numbers of fine-tuning steps, which the page states for each model.
    """
    data = {
        "model": options.model,
        "images": "PHOTOS",
        "val": "VAL",
        "list": "VAL/homographies.txt",
    }
    words = [word for name, value in data.items() for word in (f"--{name}", str(value))]
    defaults = vars(parse([*words, "--quick"] if options.quick else words))
    words += ["--quick"] if options.quick else []
    placeholders = {"xfeat": "XFEAT.onnx"} if options.xfeat is not None else {}
    for name, value in (vars(options) | placeholders).items():
        if name in (
            *data,
            "work",
            "output",
            "page",
            "jobs",
            "scan_jobs",
            "scan_from",
            "make_only",
            "finished",
            "quick",
            "keep_rows",
            "only",
            "steps",
        ):
            continue
        if value == defaults[name] or (name in _SKIPPED_BY_ZERO and not value):
            continue
        option = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, (list, tuple)) else [value]
        words += [option] if value is True else [option, *map(str, values)]
    return shlex.join(["python", "-m", "studies.compression", *words])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study and return the exit code. Errors are printed in one line."""
    options = parse(arguments)
    return exit_code(lambda: Study(options, reproducing_command(options)).run())


if __name__ == "__main__":
    sys.exit(main())

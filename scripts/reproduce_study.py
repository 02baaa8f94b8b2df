"""The study's experiments from a dense model: made, measured before and after fine-tuning, written
down. A run that was stopped goes on; every step says how long it took.

python scripts/reproduce_study.py --dense checkpoints/dense --images PHOTOS --val VAL \\
    --list VAL/homographies.txt [--minutes 60] [--only kmeans-4 --only macs-10]

Writes results/compression.json, docs/compression.md and its figures; the models stay in --work.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from study.reproduction import Reproduction

from featherglue.errors import FeatherglueError


def _without_places(options: argparse.Namespace) -> list[str]:
    """The options of a command that gives the same, with names for what lies elsewhere."""
    places = {"dense": options.dense, "images": "PHOTOS", "val": "VAL", "list": "VAL/LIST"}
    words = [word for name, place in places.items() for word in (f"--{name}", str(place))]
    defaults = vars(parse(words))
    for name, value in vars(options).items():
        if name in (*places, "work", "output", "page", "jobs", "make"):
            continue
        if value == defaults[name]:
            continue
        option = f"--{name.replace('_', '-')}"
        values = value if isinstance(value, (list, tuple)) else [value]
        if name == "only":
            words += [word for one in values for word in (option, one)]
        else:
            words += [option] if value is True else [option, *map(str, values)]
    return words


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dense", type=Path, required=True, help="folder of the dense model")
    add("--images", type=Path, required=True, help="photographs to calibrate and fine-tune on")
    add("--val", type=Path, required=True, help="folder of the images to measure on")
    add("--list", type=Path, required=True, help="their homographies")
    add("--minutes", type=float, default=60, help="of fine-tuning a model; 0 skips it")
    add("--steps", type=int, default=0, help="of each fine-tuning, whatever they take")
    add("--device", default="cpu", help="for fine-tuning: cpu or cuda")
    add(
        "--make",
        action="store_true",
        help="make the models and measure nothing, as where a GPU is; the same words without it, "
        "from a folder with the same photographs and a copy of --work, then measure them anywhere",
    )
    add("--only", action="append", default=[], metavar="NAME", help="these experiments alone")
    add("--limit", type=int, help="measure on the first pairs only")
    add("--threads", type=int, default=2, help="that networks may use when measured")
    add("--jobs", type=int, default=1, help="processes that measure accuracy")
    add("--repetitions", type=int, default=20, help="of a frame when times are measured")
    add("--calibration", type=int, default=32, help="photographs for calibration")
    add("--size", type=int, nargs=2, default=[640, 480], help="width and height of both")
    add("--scan-minutes", type=float, default=60, help="of the sensitivity scan; 0 skips it")
    add("--scan-pairs", type=int, default=24, help="pairs that it scores on")
    add("--share-out", action="store_true", help="pruning ratios by layer, by that scan")
    add("--explain-pairs", type=int, default=64, help="for what explains; 0 skips it")
    add("--histograms", nargs="*", default=["*conv*", "matcher.gnn.layers.0.*"], metavar="GLOB")
    add("--recipes", type=Path, default=Path("configs/study"))
    add("--finetune", type=Path, default=Path("configs/study/finetune.toml"))
    add("--work", type=Path, default=Path("runs/study"), help="folder of models and state")
    add("--output", type=Path, default=Path("results/compression.json"))
    add("--page", type=Path, default=Path("docs/compression.md"))
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; an error is one line."""
    try:
        options = parse(arguments)
        words = ["python", "scripts/reproduce_study.py", *_without_places(options)]
        Reproduction(options, shlex.join(words)).run()
    except FeatherglueError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Kill commands at random moments and resume them: nothing that was finished may be lost.

    python tests/robustness/kills.py --kills 200
    python tests/robustness/kills.py --kills 20 --photographs SCENE --only reconstruct

Each command runs once without a kill as the reference. Then it is killed (SIGKILL) again and again,
and started again with the same arguments, until it finishes. After every kill all results that were
finished before must be there unchanged, and no worker process may run on. The final results must
equal the reference, without unfinished files. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from featherglue.artifact.registry import find_model
from featherglue.io.json_lines import checked_entry, read_lines

ORPHAN_SECONDS = 15.0
Results = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command that resumes.

    Attributes:
        arguments: of featherglue; "{out}" stands for the output folder.
        results: the finished results in the output folder, by name.
        counts_up: whether a result is a number that may grow instead of a fixed value.
    """

    arguments: tuple[str, ...]
    results: Callable[[Path], Results]
    counts_up: bool = False


def digest(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of arrays by name."""
    total = hashlib.sha256()
    for name in sorted(arrays):
        total.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
    return total.hexdigest()[:16]


def matches(out: Path) -> Results:
    """Match files; each must be complete."""
    found = {}
    for path in out.glob("*.npz"):
        with np.load(path) as arrays:
            found[path.name] = digest({name: arrays[name] for name in arrays.files})
    return found


def evaluated_pairs(out: Path) -> Results:
    """Complete lines of the result log of an evaluation."""
    found = {}
    for path in out.glob("*.jsonl"):
        for line in read_lines(path):
            with suppress(ValueError):  # the line that the kill interrupted
                entry = checked_entry(line)
                found[entry["key"]] = entry["metrics"]
    return found


def scan_rows(out: Path) -> Results:
    """Rows of a sensitivity scan without their times."""
    if not (out / "scan.csv").exists():
        return {}
    with (out / "scan.csv").open() as file:
        rows = list(csv.DictReader(file))
    changing = {"seconds": "", "checksum": ""}
    return {f"{row['layer']} {row['level']}": row | changing for row in rows}


def labels(out: Path) -> Results:
    """Labeled photographs."""
    from featherglue.data.keypoint_labels import KeypointLabels

    if not (out / "labels.npz").exists():
        return {}
    stored = KeypointLabels.load(out / "labels.npz")
    return {name: digest({"points": stored[name].points}) for name in stored}


def training_step(out: Path) -> Results:
    """The step of the checkpoint, which must be readable."""
    from featherglue.train.engine.checkpoint import last_step

    return {"step": last_step(out)}


def trained_weights(out: Path) -> Results:
    """The weights of the trained model."""
    from featherglue.artifact.format import load_artifact

    return {"weights": digest(load_artifact(out / "model").arrays)}


def compressed_model(out: Path) -> Results:
    """The compressed model; it is whole, or it is not there."""
    from featherglue.artifact.format import load_artifact

    if not (out / "model").exists():
        return {}
    return {"weights": digest(load_artifact(out / "model").arrays)}


def stored(out: Path, name: str) -> Results:
    """The items of a feature or match file, in the record files or in the file itself."""
    from featherglue.collection.records import RecordIndex
    from featherglue.collection.store import Store

    found = {}
    index = RecordIndex(sorted((out / f".{name}.parts").glob("*.records")), {})
    for key in index.attributes:
        found[f"{name} {key}"] = digest(index.read(key).arrays)
    if (out / name).exists():
        with Store(out / name) as store:
            found |= {f"{name} {k}": digest(store.read(k).arrays) for k in store.sorted_keys()}
    return found


def extracted(out: Path) -> Results:
    """The features of each image."""
    return stored(out, "features.h5")


def reconstructed(out: Path) -> Results:
    """Features, matches, what the adjustment made of them, and the model once it is finished."""
    from featherglue.collection.mapping import summarize_model

    files = ("features.h5", "matches.h5", "adjusted_features.h5", "adjusted_matches.h5")
    found: dict[str, Any] = {}
    for name in files:
        found |= stored(out, name)
    if (out / "index.html").exists():
        model = summarize_model(out / "database.db", out / "sparse")
        found["model"] = (model.num_registered, model.num_points, model.mean_reprojection_error)
    return found


def commands(photographs: Path, configs: Path, scene: Path | None = None) -> dict[str, Command]:
    """The commands that resume or write a model.

    Args:
        photographs: a folder of photographs.
        configs: folder for files of settings.
        scene: a folder of overlapping photographs; None leaves out the command that needs one.
    """
    shapes, adapt = configs / "shapes.toml", configs / "adapt.toml"
    recipe, distill = configs / "recipe.toml", configs / "distill.toml"
    recipe.write_text(_RECIPE)
    distill.write_text(_DISTILL)
    shapes.write_text(_SHAPES)
    adapt.write_text(_ADAPT.replace("{model}", str(find_model("fast"))))
    folder = str(photographs)
    pairs = ("--images", folder, "--num-pairs", "3")
    layers = ("--include", "extractor.convDb", "--include", "matcher.final_proj")
    train = ("--resume", "--threads", "1")
    reconstruct = ("reconstruct", str(scene), "-o", "{out}", "--max-size", "480", "--workers", "1")
    return {
        **({"reconstruct": Command(arguments=reconstruct, results=reconstructed)} if scene else {}),
        "match": Command(arguments=("match", folder, "-o", "{out}"), results=matches),
        "evaluate": Command(
            arguments=("evaluate", "homography", *pairs, "--cache", "{out}", "--jobs", "2"),
            results=evaluated_pairs,
        ),
        "sensitivity": Command(
            arguments=(
                *("sensitivity", "--model", "fast", *pairs, *layers),
                *("--ratios", "0.5,0.9", "-o", "{out}"),
            ),
            results=scan_rows,
        ),
        "adapt": Command(
            arguments=(
                *("train", "adapt", "--config", str(adapt), "--images", folder, "-o", "{out}"),
                *train,
            ),
            results=labels,
        ),
        "train": Command(
            arguments=("train", "shapes", "--config", str(shapes), "-o", "{out}", *train),
            results=training_step,
            counts_up=True,
        ),
        "finetune": Command(
            arguments=(
                *("finetune", "--model", "fast", "--teacher", "fast", "--config", str(distill)),
                *("--images", folder, "-o", "{out}", *train),
            ),
            results=training_step,
            counts_up=True,
        ),
        "compress": Command(
            arguments=(
                *("compress", "--model", "fast", "--recipe", str(recipe)),
                *("-o", "{out}/model"),
            ),
            results=compressed_model,
        ),
        "extract": Command(
            arguments=("extract", folder, "-o", "{out}/features.h5"), results=extracted
        ),
    }


_SHAPES = """
[architecture]
channels = [4, 4, 8, 8, 8, 8, 16, 16]
detector_channels = 16
descriptor_channels = 16
descriptor_dim = 16
[shapes]
size = [64, 48]
[loop]
steps = 40
batch_size = 4
warmup = 2
workers = 1
bf16 = false
save_seconds = 0.0
"""
_DISTILL = """
teacher = "fast"
part = "matcher"
min_keypoints = 20
max_keypoints = 30
[scenes]
size = [96, 64]
[loop]
steps = 12
batch_size = 2
warmup = 2
workers = 1
bf16 = false
save_seconds = 0.0
[validation]
fraction = 0
"""
_RECIPE = """
[[steps]]
step = "prune"
ratio = 0.5
[[steps]]
step = "codebook"
bits = 4
"""
_ADAPT = """
extractor = "{model}"
save_seconds = 0.0
bf16 = false
[labels]
homographies = 4
"""


class KillTest:
    """Kills one command until `num_kills` is reached, and checks its results.

    Args:
        command: the command.
        folder: folder for its outputs.
        rng: draws the moments.
    """

    def __init__(self, command: Command, folder: Path, rng: np.random.Generator) -> None:
        self.command, self.folder, self.rng = command, folder, rng
        start = time.monotonic()
        code, text = self._start(folder / "reference", None)
        self.seconds = time.monotonic() - start
        if code != 0:
            raise AssertionError(f"the reference run failed: {text}")
        self.expected = self._final(folder / "reference")
        if not self.expected:
            raise AssertionError("the reference run has no results to lose")

    def run(self, num_kills: int) -> int:
        """Kill and resume. Returns the number of finished runs; raises AssertionError."""
        killed = finished = 0
        while killed < num_kills:
            out, before = self.folder / "out", {}
            shutil.rmtree(out, ignore_errors=True)
            while True:
                allowed = killed < num_kills
                delay = float(self.rng.uniform(0.1, 1.1)) * self.seconds if allowed else None
                code, text = self._start(out, delay)
                after = self.command.results(out) if out.exists() else {}
                self._check(before, after)
                before = after
                if code != -signal.SIGKILL:
                    break
                killed += 1
            if code != 0:
                raise AssertionError(f"exit code {code} of a resumed run: {text}")
            if self._final(out) != self.expected:
                raise AssertionError("a resumed run has other results")
            left = [path.name for path in out.rglob(".*")]
            if left:
                raise AssertionError(f"unfinished files: {left}")
            finished += 1
        return finished

    def _final(self, out: Path) -> Results:
        found = dict(self.command.results(out))
        return found | (trained_weights(out) if self.command.counts_up else {})

    def _check(self, before: Results, after: Results) -> None:
        for name, value in before.items():
            kept = after.get(name)
            if self.command.counts_up and kept is not None and kept >= value:
                continue
            if kept != value:
                raise AssertionError(f"{name} was lost by a kill: {value} before, {kept} after")

    def _start(self, out: Path, delay: float | None) -> tuple[int, str]:
        """Run the command, killed after a time; returns the exit code and its messages."""
        arguments = [word.replace("{out}", str(out)) for word in self.command.arguments]
        process = subprocess.Popen(
            [sys.executable, "-m", "featherglue", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            text = process.communicate(timeout=delay)[0]
        except subprocess.TimeoutExpired:
            process.kill()
            try:  # the output ends when the last process that has it ends
                text = process.communicate(timeout=ORPHAN_SECONDS)[0]
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise AssertionError("worker processes outlive their parent") from None
        return process.returncode, text.decode(errors="replace")


def make_photographs(folder: Path) -> Path:
    """A folder of four textured photographs."""
    import cv2

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(4):
        coarse = rng.integers(0, 256, (30, 40), dtype=np.uint8)
        image = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_NEAREST)
        cv2.imwrite(str(folder / f"{i}.png"), cv2.GaussianBlur(image, (0, 0), 1.0))
    return folder


def main() -> int:
    """Run the kills of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="number of kills of all commands")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="name of one command")
    parser.add_argument(
        "--photographs",
        type=Path,
        help="folder of overlapping photographs; needed for reconstruct",
    )
    given = parser.parse_args()
    failures = 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        every = commands(make_photographs(root / "photographs"), root, given.photographs)
        if given.only not in (None, *every):
            parser.error(f"--only: none of {', '.join(every)}; reconstruct needs --photographs")
        every = {k: v for k, v in every.items() if given.only in (None, k)}
        for number, (name, command) in enumerate(every.items()):
            share = given.kills // len(every) + (number < given.kills % len(every))
            try:
                rng = np.random.default_rng((given.seed, number))
                finished = KillTest(command, root / name, rng).run(share)
            except AssertionError as error:
                failures += 1
                print(f"{name}: {error}", flush=True)
            else:
                print(f"{name}: {share} kills, {finished} runs finished, no loss", flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

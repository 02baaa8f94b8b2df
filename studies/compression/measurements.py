"""Measurements of a model: accuracy on a suite, size and latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from featherglue.artifact.format import load_artifact
from featherglue.benchmarking import draw_frames
from featherglue.compression.cost import model_cost
from featherglue.evaluation import HomographySuite, SessionOpener, evaluate
from featherglue.io.gray import Gray
from featherglue.options import RuntimeName
from featherglue.session import load
from studies.compression.commands import PLAIN
from studies.compression.timing import Load


def accuracy(
    folder: Path, suite: HomographySuite, limit: int | None, threads: int, jobs: int
) -> dict[str, Any]:
    """Return AUC by threshold, precision and recall in percent, and the number of failures.

    Args:
        folder: folder of the model.
        suite: the suite.
        limit: maximum number of pairs.
        threads: number of threads of all processes together.
        jobs: number of processes.
    """
    options = SessionOpener(model=str(folder), threads=max(1, threads // jobs), **PLAIN)
    summary = evaluate(options, suite, num_pairs=limit, jobs=jobs).summary
    kept = ("auc", "precision", "recall", "matches", "pairs", "failures")
    return {name: summary[name] for name in kept}


def sizes(folder: Path, dense: Path) -> dict[str, Any]:
    """Return the number of parameters and MACs, and the size of a model in bytes."""
    cost = model_cost(load_artifact(folder), load_artifact(dense))
    return {
        "parameters": cost.parameters,
        "nonzero": cost.nonzero,
        "macs": sum(cost.macs.values()),
        "macs_effective": sum(cost.effective_macs.values()),
        "bytes_on_disk": cost.bytes_on_disk,
        "study_bytes": cost.study_bytes,
        "disk_ratio": round(cost.disk_ratio, 3),
        "study_ratio": round(cost.study_ratio, 3),
        "integer_layers": sum(layer.integer for layer in cost.layers),
    }


def threshold(folder: Path) -> dict[str, Any]:
    """Return the match threshold of a model, and whether its recipe has chosen it."""
    artifact = load_artifact(folder)
    chosen = any(step.get("step") == "threshold" for step in artifact.provenance.recipe)
    return {"match_threshold": artifact.processing.match_threshold, "threshold_chosen": chosen}


def frames(
    folders: Sequence[Path], runtime: RuntimeName, threads: int, size: tuple[int, int]
) -> list[Load]:
    """Return what loads each model: the call is a frame and its match with the previous frame.

    Args:
        folders: folders of the models.
        runtime: runtime of both networks.
        threads: number of threads.
        size: (width, height) of the frames in pixels. They have 512 keypoints.
    """
    return [partial(_frame, folder, runtime, threads, draw_frames(size)) for folder in folders]


def _frame(
    folder: Path, runtime: RuntimeName, threads: int, images: tuple[Gray, Gray]
) -> Callable[[], object]:
    session = load(str(folder), runtime=runtime, max_keypoints=512, threads=threads, **PLAIN)
    previous = session.extract(images[0])
    return lambda: session.match(previous, session.extract(images[1]))


def steps_taken(folder: Path, dense: Path) -> list[int]:
    """Return the number of steps of each fine-tuning since the dense model."""
    before, now = (load_artifact(path).provenance.recipe for path in (dense, folder))
    tuned = [step for step in now[len(before) :] if step.get("step") == "distill"]
    return [int(step.get("stopped_after", step["loop"]["steps"])) for step in tuned]

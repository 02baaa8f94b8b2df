"""What zero weights gain on a processor without hardware for them.

`measure_sparsity` measures single layers, whole frames and accuracy.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from featherglue.artifact.encodings import Quantization
from featherglue.artifact.format import Artifact, load_artifact, save_artifact
from featherglue.benchmarking import draw_frames
from featherglue.compression.pruning.fine_grained import PruneConfig, prune
from featherglue.config import to_dict
from featherglue.errors import RuntimeUnavailableError
from featherglue.evaluation import HomographySuite
from featherglue.machine import describe_machine
from featherglue.models.model import Model
from featherglue.native.sparse_networks import runs_sparse_networks
from featherglue.processes import worker_pool
from featherglue.runtime.sparse_ import zero_fractions
from featherglue.sensitivity.scoring import HomographyScorer, ScoringConfig
from featherglue.session import load
from studies.compression.commands import PLAIN
from studies.compression.continuation import is_made_from
from studies.compression.journal import Journal

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
    "SuperGlue 2:4": ("native",),
    "SuperGlue 89 %": ("sparse",),
    "SuperGlue 89 %, 4×1": ("sparse",),
    "SuperGlue 89 %, 1×8": ("sparse",),
    "SuperPoint 60 %, SuperGlue 89 %, fine-tuned": ("onnxruntime", "openvino", "native", "sparse"),
    "structured, 25 % of the MACs, fine-tuned": ("onnxruntime", "openvino", "native"),
    "structured, 10 % of the MACs, fine-tuned": ("onnxruntime", "openvino", "native"),
}
# Ratios whose accuracy is measured for each pattern.
_RATIOS = {"": (0.5, 0.7), "4x1": (0.5, 0.7), "1x8": (0.5, 0.7)}


@dataclass(frozen=True, kw_only=True)
class SparsitySettings:
    """Settings of the measurement.

    Attributes:
        num_pairs: number of pairs of an accuracy.
        repetitions: repetitions of a latency; the median counts.
        size: (width, height) of the frames in pixels.
    """

    num_pairs: int
    repetitions: int
    size: tuple[int, int] = (640, 480)


def check_engines() -> None:
    """Check that everything is installed that the measurement needs.

    Raises:
        RuntimeUnavailableError: a compiler, a library or an instruction of the processor is
            missing.
    """
    if not runs_sparse_networks():
        raise RuntimeUnavailableError(
            "the section on zeros needs the kernels of the sparse runtime and AVX2; leave it out "
            "with --num-sparsity-repetitions 0"
        )
    _layers().compile_kernels()


def fine_tuned_models(work: Path, finished: Path, dense: Artifact) -> dict[str, Path]:
    """Return the folders of the models that were fine-tuned from a dense model, by title.

    Those that are not stored are left out.

    Args:
        work: work folder of the study, searched first.
        finished: folder of finished models, such as checkpoints/study.
        dense: the dense model.
    """
    found = {}
    for title, name in TUNED.items():
        for folder in (work / name / "after", finished / name):
            if folder.is_dir() and is_made_from(load_artifact(folder), dense):
                found[title] = folder
                break
        else:
            print(f"  {title}: left out of the section on zeros, because {name} is not stored")
    return found


def measure_sparsity(
    model: Model,
    tuned: Mapping[str, Path],
    suite: HomographySuite,
    settings: SparsitySettings,
    journal: Journal,
    inputs: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the measurements by part: limits, layers, frames-1, frames-2 and accuracy.

    Each part is a step of the journal and has an `origin`.

    Args:
        model: the dense model with batch normalization folded.
        tuned: result of `fine_tuned_models`.
        suite: pairs of the accuracies.
        settings: settings of the measurement.
        journal: journal of the study. The models are written beside it.
        inputs: plain values that identify the dense model and the suite.
    """
    folder = journal.path.parent / "sparsity"
    models = {}
    for title, path in tuned.items():
        artifact = load_artifact(path)
        models[title] = [artifact.fingerprint, to_dict(artifact.processing)]
    sources = {**inputs, "models": models}
    layer_arguments = model.to_artifact().arrays, settings.repetitions
    timed = {"repetitions": settings.repetitions, "flags": describe_machine()["flags"]}

    @cache
    def folders() -> dict[str, Path]:
        return make_models(model, tuned, folder)

    def frames(threads: int) -> dict[str, Any]:
        rows = measure_frames(folders(), threads, settings)
        return {"rows": rows, "size": list(settings.size)}

    def accuracy() -> dict[str, Any]:
        return measure_accuracy(model, folders(), suite, settings.num_pairs)

    parts: dict[str, tuple[Mapping[str, Any], Callable[[], Any]]] = {
        "limits": (timed, _layers().limits),
        "layers": (
            {**timed, **inputs},
            lambda: {"rows": _in_new_process(_layers().measure_layers, *layer_arguments)},
        ),
        **{
            f"frames-{threads}": (
                {**timed, **sources, "size": list(settings.size)},
                partial(frames, threads),
            )
            for threads in (1, 2)
        },
        "accuracy": ({**sources, "pairs": settings.num_pairs}, accuracy),
    }
    conditions = {"layers": 1, "frames-1": 1, "frames-2": 2}
    found = {}
    for name, (given, measure) in parts.items():
        step = f"{name}, section on zeros"
        result = journal.step(step, given, measure)
        found[name] = {**result, "origin": journal.origin(step)}
        if name in conditions:
            found[name]["origin"] |= {"threads": conditions[name], "turns": settings.repetitions}
    return found


def _in_new_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module. A process that forks after it has used OpenVINO may crash."""
    with worker_pool(None, 1, _prepare) as pool:
        return pool.submit(function, *arguments).result()


def _prepare() -> None:
    """The process needs no preparation."""


def _layers() -> ModuleType:
    """The module that measures single layers. It needs OpenVINO, PyTorch and ONNX."""
    try:
        from studies.compression import sparsity_layers  # noqa: PLC0415 (optional libraries)
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the section on zeros needs the package {error.name}; install it, or leave the "
            "section out with --num-sparsity-repetitions 0"
        ) from None
    return sparsity_layers


def make_models(model: Model, tuned: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Write all models of the frames and return their folders by title.

    The fine-tuned models are decoded once: Huffman codes take long to read.
    """
    made: dict[str, Callable[[Path], object]] = {"dense": model.save}
    for title, config in PRUNED.items():
        made[title] = partial(_save_pruned, model, config)
    for title, source in tuned.items():
        made[title] = partial(_save_decoded, source)
    folders = {}
    for i, (title, save) in enumerate(made.items()):
        folders[title] = folder / f"model-{i}"
        save(folders[title])
    return folders


def _save_pruned(model: Model, config: PruneConfig, folder: Path) -> None:
    prune(model, config).save(folder)


def _save_decoded(source: Path, folder: Path) -> None:
    artifact = load_artifact(source)
    save_artifact(folder, dataclasses.replace(artifact, quantization=Quantization()))


def measure_frames(
    folders: Mapping[str, Path], threads: int, settings: SparsitySettings
) -> list[dict[str, Any]]:
    """Return ms of a frame with 512 keypoints by model and runtime.

    A frame is an extraction and a match with the previous frame. All sessions run in turn. With one
    thread the time is CPU time, which other programs do not disturb.
    """
    found = []
    zeros = {title: zero_fractions(load_artifact(folder)) for title, folder in folders.items()}
    first, second = draw_frames(settings.size)
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
    for _ in range(settings.repetitions):
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
    model: Model, folders: Mapping[str, Path], suite: HomographySuite, num_pairs: int
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

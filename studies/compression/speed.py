"""Latency of each network against the number of keypoints, for Figure 3.

All contenders are measured in turn in each round, so that a change of the machine's speed affects
all of them. The features are drawn at random: the time of a network does not depend on values.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from featherglue.artifact.format import load_artifact
from featherglue.matching.assignment import nearest_neighbors
from featherglue.options import RuntimeName
from featherglue.runtime.base import open_runtime

KEYPOINTS = (128, 256, 512, 1024, 2048, 4096)
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "onnxruntime", "openvino")
_XFEAT_SIDE = 640
Seconds = list[float | None]
Remember = Callable[[int, Sequence[int], Callable[[], Seconds]], Seconds]


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Settings of the measurement.

    Attributes:
        keypoints: numbers of keypoints, in ascending order.
        runtimes: runtimes of the networks.
        size: (width, height) of the image in pixels.
        threads: number of threads.
        repetitions: number of rounds; the median counts.
        budget: s, longest call. A contender that takes longer is not measured with more keypoints.
        xfeat: ONNX file of XFeat, or None.
    """

    keypoints: tuple[int, ...] = KEYPOINTS
    runtimes: tuple[RuntimeName, ...] = RUNTIMES
    size: tuple[int, int] = (640, 480)
    threads: int = 2
    repetitions: int = 3
    budget: float = 4.0
    xfeat: Path | None = None


def plain(settings: SpeedSettings) -> dict[str, Any]:
    """Return what affects the times, as plain values."""
    values = dataclasses.asdict(settings)
    return values | {"xfeat": settings.xfeat is not None}


@dataclass(frozen=True)
class Timed:
    """Something to measure.

    Attributes:
        label: name of a model, "SIFT" or "XFeat".
        runtime: name of the runtime, or "" for a classical method.
        part: "extractor" or "matcher".
        prepare: given a number of keypoints, returns the call to measure. An extractor of a model
            gets 0, because its time does not depend on the number.
    """

    label: str
    runtime: str
    part: str
    prepare: Callable[[int], Callable[[], object]]


def measure_speed(
    folders: Mapping[str, Path], settings: SpeedSettings, remember: Remember | None = None
) -> dict[str, Any]:
    """Return the median latencies as plain values.

    Args:
        folders: folder of each model by label.
        settings: settings of the measurement.
        remember: given a number of keypoints, the indices of the contenders that were too slow
            before, and a function that measures, returns its stored or new result. None stores
            nothing.

    Returns:
        `rows` with `label`, `runtime`, `part`, `ms` (number of keypoints → median) and `stopped`
        (first number of keypoints that exceeded the budget, or None); and the settings.
    """
    cv2.setNumThreads(settings.threads)
    contenders = [*_networks(folders, settings), *_classical(settings)]
    rows = [_row(contender) for contender in contenders]
    for count in settings.keypoints:
        slow = [i for i, row in enumerate(rows) if row["stopped"] is not None]
        chosen = [
            i
            for i, contender in enumerate(contenders)
            if i not in slow and _depends(contender, count, settings)
        ]

        def measure(count: int = count, chosen: Sequence[int] = tuple(chosen)) -> Seconds:
            return _measure_round([contenders[i].prepare(count) for i in chosen], settings)

        seconds = measure() if remember is None else remember(count, slow, measure)
        for i, median in zip(chosen, seconds, strict=True):
            if median is None:
                rows[i]["stopped"] = count
            else:
                rows[i]["ms"][str(count)] = round(1000 * median, 3)
    return {
        "rows": rows,
        "keypoints": list(settings.keypoints),
        "size": list(settings.size),
        "threads": settings.threads,
        "repetitions": settings.repetitions,
        "budget": settings.budget,
    }


def _depends(contender: Timed, count: int, settings: SpeedSettings) -> bool:
    """Whether to measure with this number of keypoints. A network for images needs only one."""
    return contender.part == "matcher" or not contender.runtime or count == settings.keypoints[0]


def _measure_round(
    calls: Sequence[Callable[[], object]], settings: SpeedSettings
) -> list[float | None]:
    """Return the median time of each call in seconds; None for calls beyond the budget."""
    print(f"    {len(calls)} contenders", flush=True)
    quick = [_timed(call) <= settings.budget for call in calls]
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(settings.repetitions):
        for call, within, seconds in zip(calls, quick, times, strict=True):
            if within:
                seconds.append(_timed(call))
    return [float(np.median(seconds)) if seconds else None for seconds in times]


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _row(contender: Timed) -> dict[str, Any]:
    named = {"label": contender.label, "runtime": contender.runtime, "part": contender.part}
    return {**named, "ms": {}, "stopped": None}


def _networks(folders: Mapping[str, Path], settings: SpeedSettings) -> list[Timed]:
    found = []
    width, height = settings.size
    image = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    for label, folder in folders.items():
        artifact = load_artifact(folder)
        dim = _descriptor_dim(artifact)
        for name in settings.runtimes:
            runtime = open_runtime(artifact, name, settings.threads)

            def extract(count: int, runtime: Any = runtime) -> Callable[[], object]:
                return lambda: runtime.extract(image)

            def match(count: int, runtime: Any = runtime, dim: int = dim) -> Callable[[], object]:
                keypoints, descriptors = _random_features(count, dim)
                return lambda: runtime.match(keypoints, descriptors, keypoints, descriptors)

            found += [
                Timed(label, name, "extractor", extract),
                Timed(label, name, "matcher", match),
            ]
    return found


def _descriptor_dim(artifact: Any) -> int:
    return int(artifact.architecture.matcher.descriptor_dim)


def _random_features(count: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(count)
    keypoints = rng.uniform(-0.7, 0.7, (count, 3)).astype(np.float32)
    descriptors = rng.normal(size=(count, dim)).astype(np.float32)
    return keypoints, descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)


def _classical(settings: SpeedSettings) -> list[Timed]:
    """SIFT and XFeat, each with mutual nearest neighbors."""
    width, height = settings.size
    noise = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4), np.uint8)
    image = cv2.resize(noise, settings.size, interpolation=cv2.INTER_CUBIC)  # has enough blobs

    def sift(count: int) -> Callable[[], object]:
        detector = cv2.SIFT.create(nfeatures=count)
        return lambda: detector.detectAndCompute(image, None)

    def neighbors(dim: int) -> Callable[[int], Callable[[], object]]:
        def prepare(count: int) -> Callable[[], object]:
            _, descriptors = _random_features(count, dim)
            return lambda: nearest_neighbors(descriptors, descriptors)

        return prepare

    found = [
        Timed("SIFT", "", "extractor", sift),
        Timed("SIFT", "", "matcher", neighbors(128)),
    ]
    if settings.xfeat is not None:
        run = _xfeat_network(settings.xfeat, settings.threads)
        found += [
            Timed("XFeat", "onnxruntime", "extractor", lambda count: run),
            Timed("XFeat", "", "matcher", neighbors(64)),
        ]
    return found


def _xfeat_network(path: Path, threads: int) -> Callable[[], Sequence[Any]]:
    """Return a call of XFeat's network, without the decoding of its keypoints."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in featherglue
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    side = _XFEAT_SIDE
    image = np.random.default_rng(2).normal(size=(1, 1, side, side)).astype(np.float32)
    return lambda: session.run(None, {name: image})

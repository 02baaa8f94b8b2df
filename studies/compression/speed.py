"""Latency of each network against the number of keypoints, for Figure 3; see `timing`.

The features are drawn at random: the time of a network does not depend on values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from featherglue.artifact.format import load_artifact
from featherglue.matching.assignment import nearest_neighbors
from featherglue.options import RuntimeName
from featherglue.runtime.base import Runtime, open_runtime
from studies.compression.timing import (
    Call,
    Load,
    Remember,
    Turn,
    Turns,
    conditions,
    measure_now,
    medians,
    num_turns,
)

KEYPOINTS = (128, 256, 512, 1024, 2048, 4096)
RUNTIMES: tuple[RuntimeName, ...] = ("torch", "onnxruntime", "openvino")
_XFEAT_SIDE = 640
Prepare = Callable[[int], Call]
"""Given a number of keypoints, returns the call to measure."""
_TOGETHER = 1024  # keypoints, beyond which all networks at once need more than 10 GB


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Settings of the measurement.

    Attributes:
        keypoints: numbers of keypoints, in ascending order.
        runtimes: runtimes of the networks.
        size: (width, height) of the image in pixels.
        threads: number of threads.
        repetitions: number of turns; the median counts. With many keypoints, where calls are long
            and vary little, there are fewer: 2 with 2048, and 1 with 4096.
        budget: s, longest call. A contender that takes longer is not measured with more keypoints.
        xfeat: ONNX file of XFeat, or None.
    """

    keypoints: tuple[int, ...] = KEYPOINTS
    runtimes: tuple[RuntimeName, ...] = RUNTIMES
    size: tuple[int, int] = (640, 480)
    threads: int = 1
    repetitions: int = 5
    budget: float = 8.0
    xfeat: Path | None = None

    def turns(self, count: int) -> int:
        """Return the number of turns with a number of keypoints."""
        return num_turns(self.repetitions, count)


def plain(settings: SpeedSettings) -> dict[str, Any]:
    """Return what affects the time of a call, as plain values."""
    values = dataclasses.asdict(settings) | {"xfeat": settings.xfeat is not None}
    return {name: values[name] for name in ("runtimes", "size", "threads", "xfeat")}


def measure_speed(
    folders: Mapping[str, Path], settings: SpeedSettings, remember: Remember = measure_now
) -> dict[str, Any]:
    """Return the median latencies as plain values.

    Args:
        folders: folder of each model by label.
        settings: settings of the measurement.
        remember: returns a stored turn, or measures it. Networks are loaded for the first new one.

    Returns:
        `rows` with `label`, `runtime`, `part`, `ms` (number of keypoints → median) and `stopped`
        (number of keypoints that exceeded the budget, or None); the settings; and the conditions.
    """
    contenders = _Contenders(folders, settings)
    rows: list[dict[str, Any]] = [
        {"label": label, "runtime": runtime, "part": part, "ms": {}, "stopped": None}
        for label, runtime, part in contenders.named
    ]
    all_turns: list[Turn] = []
    for count in settings.keypoints:
        chosen = [
            i
            for i, row in enumerate(rows)
            if row["stopped"] is None and _depends(row, count, settings)
        ]
        measure = Turns(
            partial(contenders.loads, tuple(chosen), count), settings.threads, count <= _TOGETHER
        )
        turns = [
            remember(
                f"turn {turn + 1} with {count} keypoints",
                {"count": count, "turn": turn, "chosen": chosen},
                measure,
            )
            for turn in range(settings.turns(count))
        ]
        for i, seconds in zip(chosen, medians(turns), strict=True):
            rows[i]["ms"][str(count)] = round(1000 * seconds, 3)
            rows[i]["stopped"] = count if seconds > settings.budget else None
        all_turns += turns
    return {
        "rows": rows,
        "keypoints": list(settings.keypoints),
        "size": list(settings.size),
        "budget": settings.budget,
        **conditions(all_turns, settings.threads),
        "turns": settings.repetitions,
    }


def _depends(row: Mapping[str, Any], count: int, settings: SpeedSettings) -> bool:
    """Whether to measure with this number of keypoints. A network for images needs only one."""
    return row["part"] == "matcher" or row["label"] == "SIFT" or count == settings.keypoints[0]


class _Contenders:
    """All networks in all runtimes, SIFT and XFeat.

    Attributes:
        named: label, runtime ("" for a classical method) and part of each contender.
    """

    def __init__(self, folders: Mapping[str, Path], settings: SpeedSettings) -> None:
        self._folders, self._settings = folders, settings
        self._prepare: list[Prepare] = []
        peers = [("SIFT", ""), *([("XFeat", "onnxruntime")] if settings.xfeat else [])]
        both = [*((label, name) for label in folders for name in settings.runtimes), *peers]
        self.named = [
            (label, "" if part == "matcher" and label == "XFeat" else name, part)
            for label, name in both
            for part in ("extractor", "matcher")
        ]

    def loads(self, chosen: Sequence[int], count: int) -> list[Load]:
        """Return what loads some contenders for a number of keypoints."""
        if not self._prepare:
            cv2.setNumThreads(self._settings.threads)
            networks = _networks(self._folders, self._settings)
            self._prepare = [*networks, *_classical(self._settings)]
        print(f"    {len(chosen)} contenders", flush=True)
        return [partial(self._prepare[i], count) for i in chosen]


def _networks(folders: Mapping[str, Path], settings: SpeedSettings) -> list[Prepare]:
    """The extractor and the matcher of each model in each runtime."""
    found: list[Prepare] = []
    width, height = settings.size
    image = np.random.default_rng(0).integers(0, 256, (height, width), np.uint8)
    for folder in folders.values():
        artifact = load_artifact(folder)
        matcher = artifact.architecture.matcher
        assert matcher is not None
        for name in settings.runtimes:
            opened = partial(open_runtime, artifact, name, settings.threads)
            found += [
                partial(_extraction, opened, image),
                partial(_match, opened, matcher.descriptor_dim),
            ]
    return found


def _extraction(opened: Callable[[], Runtime], image: NDArray[np.uint8], count: int) -> Call:
    del count
    runtime = opened()
    return lambda: runtime.extract(image)


def _match(opened: Callable[[], Runtime], dim: int, count: int) -> Call:
    runtime = opened()
    keypoints, descriptors = _random_features(count, dim)
    return lambda: runtime.match(keypoints, descriptors, keypoints, descriptors)


def _random_features(count: int, dim: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    rng = np.random.default_rng(count)
    keypoints = rng.uniform(-0.7, 0.7, (count, 3)).astype(np.float32)
    descriptors = rng.normal(size=(count, dim)).astype(np.float32)
    return keypoints, descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)


def _classical(settings: SpeedSettings) -> list[Prepare]:
    """SIFT and XFeat, each with mutual nearest neighbors."""
    width, height = settings.size
    noise = np.random.default_rng(1).integers(0, 256, (height // 4, width // 4), np.uint8)
    image = cv2.resize(noise, settings.size, interpolation=cv2.INTER_CUBIC)  # has enough blobs

    def sift(count: int) -> Call:
        detector = cv2.SIFT.create(nfeatures=count)
        return lambda: detector.detectAndCompute(image, None)

    def neighbors(dim: int) -> Prepare:
        def prepare(count: int) -> Call:
            _, descriptors = _random_features(count, dim)
            return lambda: nearest_neighbors(descriptors, descriptors)

        return prepare

    found = [sift, neighbors(128)]
    if settings.xfeat is not None:
        run = _xfeat_network(settings.xfeat, settings.threads)
        found += [lambda count: run, neighbors(64)]
    return found


def _xfeat_network(path: Path, threads: int) -> Call:
    """Return a call of XFeat's network, without the decoding of its keypoints."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # as in featherglue
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    side = _XFEAT_SIDE
    image = np.random.default_rng(2).normal(size=(1, 1, side, side)).astype(np.float32)
    return lambda: session.run(None, {name: image})

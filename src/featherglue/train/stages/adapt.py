"""The stage that labels a folder of photographs by homographic adaptation."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from featherglue.artifact.folding import fold_batch_norm
from featherglue.artifact.format import load_artifact
from featherglue.config import to_dict
from featherglue.data.keypoint_labels import KeypointLabels, PhotoLabels
from featherglue.data.photographs import PhotoFolder
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.precision import autocast
from featherglue.train.stages.homographic_adaptation import Extract, LabelConfig, label_photograph

_REPORT_SECONDS = 5.0
FILE = "labels.npz"


@dataclass(frozen=True, kw_only=True)
class AdaptStage:
    """Homographic adaptation of a folder of photographs.

    Attributes:
        extractor: folder of the model whose extractor finds the labels.
        labels: how. seed: with a photograph's name it decides on its views.
        bf16: run the network in bfloat16 where the device has it.
        save_seconds: time between two writings of the file.
    """

    extractor: str
    labels: LabelConfig = field(default_factory=LabelConfig)
    seed: int = 0
    bf16: bool = True
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed cannot be negative, as {self.seed} is")


def adapt(
    stage: AdaptStage,
    images: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    minutes: float = math.inf,
    device: str = "cpu",
    report: Callable[[int, dict[str, float]], None] = lambda done, row: None,
) -> KeypointLabels:
    """Label the photographs of a folder into one file, going on where a run stopped.

    Args:
        images: folder of photographs. Broken ones are named in a warning and have no labels.
        file: `*.npz`, written whole or not at all; or a folder, in which it is `labels.npz`.
        minutes: stop, resumable, after this time and at least one photograph.
        report: called about every 5 seconds with the photographs done so far, and the means of
            what was found since, `rate` in photographs a second, `minutes_left`.

    Returns:
        the labels of all photographs, or of those that the time was enough for.

    Raises:
        TrainingError: no usable photographs, or a file that holds labels of another model, of
            other settings or of other photographs.
        ConfigError: it was started by torchrun in several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("photographs are labelled by one process; start it without torchrun")
    start = time.monotonic()
    path = label_file(file)
    artifact = load_artifact(stage.extractor)
    network = Model.from_artifact(fold_batch_norm(artifact)).extractor
    if network is None:
        raise TrainingError(f"{stage.extractor}: a model without an extractor")
    photos = PhotoFolder(images)
    settings = json.loads(json.dumps(to_dict(stage)))
    done = _read(path, artifact.hash, settings, photos)
    progress = _Progress(len(photos) - len(done), report)
    extract = extractor_function(network, device, stage.bf16)
    saved = time.monotonic()

    def save() -> KeypointLabels:
        ordered = {name: done[name] for name in photos.names if name in done}
        labels = KeypointLabels(ordered, artifact.hash, settings)
        labels.save(path)
        return labels

    try:
        for index, name in enumerate(photos.names):
            if name in done:
                continue
            rng = np.random.default_rng((stage.seed, zlib.crc32(name.encode())))
            found = label_photograph(extract, photos[index], stage.labels, rng, device)
            done[name] = found
            progress.add(found, len(done))
            if time.monotonic() - start > minutes * 60:
                break
            if time.monotonic() - saved > stage.save_seconds:
                save()
                saved = time.monotonic()
    finally:  # on Ctrl-C, too
        labels = save()
    progress.show(len(done))
    return labels


def label_file(output: str | os.PathLike[str]) -> Path:
    """The file that labels are written to: `output` itself, or in the folder `output`."""
    return Path(output) if Path(output).suffix == ".npz" else Path(output) / FILE


def extractor_function(network: SuperPoint, device: str, bf16: bool) -> Extract:
    """A network as `label_photograph` wants it: without gradients, on a device."""
    network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device, bf16):
            scores, descriptors = network(images.contiguous(memory_format=torch.channels_last))
        return scores, descriptors

    return extract


def _read(
    path: Path, model: str, settings: dict[str, Any], photos: PhotoFolder
) -> dict[str, PhotoLabels]:
    """What a file holds already, if it is of the same model, settings and photographs."""
    if not path.exists():
        return {}
    before = KeypointLabels.load(path)
    if before.model != model:
        raise TrainingError(f"{path}: holds labels of another model; choose another file")
    free = ("extractor", "save_seconds")  # the model's hash says more than its folder
    changed = [
        key for key in settings if key not in free and before.settings.get(key) != settings[key]
    ]
    if changed:
        raise TrainingError(
            f"{path}: holds labels of other settings ({changed[0]}); choose another file"
        )
    foreign = sorted(set(before) - set(photos.names))
    if foreign:
        raise TrainingError(
            f"{path}: holds labels of other photographs ({foreign[0]}); choose another file"
        )
    return dict(before)


class _Progress:
    """Means over what was labelled since the last report, the rate and the time left."""

    def __init__(self, missing: int, report: Callable[[int, dict[str, float]], None]) -> None:
        self.missing, self.report = missing, report
        self.start = self.reported = time.monotonic()
        self.count, self.fresh = 0, list[PhotoLabels]()

    def add(self, labels: PhotoLabels, done: int) -> None:
        self.count += 1
        self.fresh.append(labels)
        if time.monotonic() - self.reported > _REPORT_SECONDS:
            self.show(done)

    def show(self, done: int) -> None:
        if not self.fresh:
            return
        now = time.monotonic()
        rate = self.count / max(now - self.start, 1e-9)
        total = max(1, sum(len(labels) for labels in self.fresh))
        row = {
            "labels": total / len(self.fresh),
            "repeatability": sum(float(x.repeatability.sum()) for x in self.fresh) / total,
            "matchability": sum(float(x.matchability.sum()) for x in self.fresh) / total,
            "rate": rate,
            "minutes_left": (self.missing - self.count) / rate / 60,
        }
        self.report(done, row)
        self.fresh, self.reported = [], now

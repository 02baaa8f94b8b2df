"""The stage "adapt": homographic adaptation labels the keypoints of a folder of photographs."""

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
from featherglue.train.engine.run_settings import current_names
from featherglue.train.stages.homographic_adaptation import Extract, LabelConfig, label_photograph
from featherglue.train.stages.real_views import RealViews
from featherglue.train.stages.training_data import model_folder_fingerprints

_REPORT_SECONDS = 5.0
FILE = "labels.npz"


@dataclass(frozen=True, kw_only=True)
class AdaptStage:
    """Settings of the stage "adapt".

    Attributes:
        extractor: folder of the model whose extractor finds the labels.
        labels: settings of homographic adaptation.
        models: folder of COLMAP models of the photographs; "" for none. Other photographs of a
            scene are then views of a photograph, too: repeatability and matchability of its labels
            are those of real viewpoints and light.
        depths: folder of the depth maps that `featherglue depth` made of `models`.
        seed: seed of the views; those of a photograph also depend on its name.
        bf16: run the network in bfloat16 if the device supports it.
        save_seconds: time between two writes of the label file in seconds.

    Raises:
        ConfigError: `seed` is negative, or only one of `models` and `depths` is given.
    """

    extractor: str
    labels: LabelConfig = field(default_factory=LabelConfig)
    models: str = ""
    depths: str = ""
    seed: int = 0
    bf16: bool = True
    save_seconds: float = 60.0

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0, not {self.seed}")
        if bool(self.models) != bool(self.depths):
            raise ConfigError("`depths` are the depth maps of `models`: give both or neither")


def adapt(
    stage: AdaptStage,
    images: str | os.PathLike[str],
    file: str | os.PathLike[str],
    *,
    minutes: float = math.inf,
    device: str = "cpu",
    report: Callable[[int, dict[str, float]], None] = lambda done, row: None,
) -> KeypointLabels:
    """Label the photographs of a folder, or resume labeling them.

    Args:
        images: folder of photographs. Unreadable ones are named in a warning and get no labels.
        file: `*.npz` file, written atomically; or a folder, in which `labels.npz` is written.
        minutes: time limit; at least one photograph is labeled, and the run can be resumed.
        device: "cpu" or "cuda".
        report: called about every 5 seconds with the number of labeled photographs, and means
            over those since the last call, `rate` in photographs per second and `minutes_left`.

    Returns:
        The labels of all photographs that were labeled within the time limit.

    Raises:
        TrainingError: no usable photographs, models or depth maps, or `file` holds labels of
            another model, other settings or other photographs.
        MissingExtraError: `models` are given, and pycolmap is not installed.
        ConfigError: it runs in several processes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("the stage adapt runs in one process: start it without torchrun")
    start = time.monotonic()
    path = label_file(file)
    artifact = load_artifact(stage.extractor)
    network = Model.from_artifact(fold_batch_norm(artifact)).extractor
    if network is None:
        raise TrainingError(f"{stage.extractor}: a model without an extractor finds no keypoints")
    photos = PhotoFolder(images)
    views = RealViews(photos, stage.models, stage.depths) if stage.models else None
    settings = json.loads(json.dumps(to_dict(stage)))
    if stage.models:
        settings |= model_folder_fingerprints(stage.models, stage.depths)
    done = _read_labels(path, artifact.hash, settings, photos)
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
            key = (stage.seed, zlib.crc32(name.encode()))
            rng, choice = np.random.default_rng(key), np.random.default_rng((*key, 1))
            others = views.draw(index, stage.labels.real_views, choice) if views else []
            found = label_photograph(extract, photos[index], stage.labels, rng, device, others)
            done[name] = found
            progress.add(found, len(done))
            if time.monotonic() - start > minutes * 60:
                break
            if time.monotonic() - saved > stage.save_seconds:
                save()
                saved = time.monotonic()
    finally:  # also after Ctrl-C
        labels = save()
    progress.show(len(done))
    return labels


def label_file(output: str | os.PathLike[str]) -> Path:
    """The label file: `output` if it ends in .npz, else `labels.npz` in the folder `output`."""
    return Path(output) if Path(output).suffix == ".npz" else Path(output) / FILE


def extractor_function(network: SuperPoint, device: str, bf16: bool) -> Extract:
    """A network as a function for `label_photograph`, without gradients."""
    network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        with autocast(device, bf16):
            scores, descriptors = network(images.contiguous(memory_format=torch.channels_last))
        return scores, descriptors

    return extract


def _read_labels(
    path: Path, model: str, settings: dict[str, Any], photos: PhotoFolder
) -> dict[str, PhotoLabels]:
    """The labels in a file; raises if model, settings or photographs differ."""
    if not path.exists():
        return {}
    before = KeypointLabels.load(path)
    if before.model != model:
        raise TrainingError(f"{path}: holds labels of another model; choose another file")
    ignored = ("extractor", "save_seconds")  # the model is compared by its fingerprint
    stored = {"models": "", "depths": "", **current_names(before.settings)}
    stored["labels"] = {"real_views": settings["labels"]["real_views"], **stored["labels"]}
    changed = [key for key in settings if key not in ignored and stored.get(key) != settings[key]]
    if changed:
        raise TrainingError(
            f"{path}: holds labels with other settings ({changed[0]}); choose another file"
        )
    foreign = sorted(set(before) - set(photos.names))
    if foreign:
        raise TrainingError(
            f"{path}: holds labels of other photographs ({foreign[0]}); choose another file"
        )
    return dict(before)


class _Progress:
    """Reports means since the last report, the rate and the remaining time."""

    def __init__(self, missing: int, report: Callable[[int, dict[str, float]], None]) -> None:
        self.missing, self.report = missing, report
        self.start = self.reported = time.monotonic()
        self.count, self.unreported = 0, list[PhotoLabels]()

    def add(self, labels: PhotoLabels, done: int) -> None:
        self.count += 1
        self.unreported.append(labels)
        if time.monotonic() - self.reported > _REPORT_SECONDS:
            self.show(done)

    def show(self, done: int) -> None:
        if not self.unreported:
            return
        now = time.monotonic()
        rate = self.count / max(now - self.start, 1e-9)
        total = max(1, sum(len(labels) for labels in self.unreported))
        row = {
            "labels": total / len(self.unreported),
            "repeatability": sum(float(x.repeatability.sum()) for x in self.unreported) / total,
            "matchability": sum(float(x.matchability.sum()) for x in self.unreported) / total,
            "rate": rate,
            "minutes_left": (self.missing - self.count) / rate / 60,
        }
        self.report(done, row)
        self.unreported, self.reported = [], now

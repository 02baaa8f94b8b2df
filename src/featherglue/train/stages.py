"""The stages of training, each from one configuration to a model.

A stage reads a TOML file whose tables are the dataclasses below; every key has a default, unknown
ones are refused.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from featherglue.config import (
    ArchitectureConfig,
    ProcessingConfig,
    Provenance,
    SuperGlueConfig,
    SuperPointConfig,
    from_dict,
    to_dict,
)
from featherglue.data.images import PhotoFolder
from featherglue.data.scenes import SceneConfig, Scenes
from featherglue.data.views import ViewConfig, ViewPairs
from featherglue.errors import ConfigError, TrainingError
from featherglue.files import write_json
from featherglue.models.pair import Model
from featherglue.train.loop import LoopConfig, spent_seconds, train
from featherglue.train.superglue import SuperGlueLoss
from featherglue.train.superpoint import SuperPointLoss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Report = Callable[[int, dict[str, float]], None]
StageName = Literal["superpoint", "superglue"]
T = TypeVar("T")
_LICENSE = "Apache-2.0"


@dataclass(frozen=True, kw_only=True)
class SuperPointStage:
    """Detector and descriptor, from scratch, on pairs of views of photographs.

    Attributes:
        start: folder of a model whose extractor to start from; "" starts from scratch.
        data: a sentence on the photographs, for the model card.
    """

    loop: LoopConfig
    architecture: SuperPointConfig = field(default_factory=SuperPointConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    loss: SuperPointLoss = field(default_factory=SuperPointLoss)
    start: str = ""
    seed: int = 0
    data: str = ""


@dataclass(frozen=True, kw_only=True)
class SuperGlueStage:
    """The matcher, from scratch, on scenes seen through a trained extractor.

    Attributes:
        extractor: folder of the model whose extractor gives the keypoints.
        fewest, most: keypoints an image, drawn for each batch.
        sinkhorn_iterations: in training.
        start: folder of a model whose matcher to start from; "" starts from comparing
            descriptors as they are.
        processing: what the finished model uses.
    """

    loop: LoopConfig
    extractor: str
    architecture: SuperGlueConfig = field(default_factory=SuperGlueConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    fewest: int = 128
    most: int = 256
    sinkhorn_iterations: int = 20
    processing: ProcessingConfig = field(default_factory=ProcessingConfig)
    start: str = ""
    seed: int = 0
    data: str = ""


def read_stage(cls: type[T], path: str | os.PathLike[str]) -> T:
    """A stage's configuration from a TOML file.

    Raises:
        ConfigError: no such file, not TOML, an unknown or missing key.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            values = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not TOML ({error})") from None
    return from_dict(cls, values, str(path))


def train_superpoint(
    stage: SuperPointStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
) -> Model:
    """Train an extractor and save it, with its run, as the model `folder/model`.

    Args:
        images: folder of photographs. folder: of the run; one that holds a checkpoint goes on.
        minutes: stop, resumable, after this time.

    Raises:
        TrainingError: no usable photographs, a loss that is not finite, a foreign checkpoint.
    """
    photos = PhotoFolder(images)
    _keep_settings(stage, folder)
    torch.manual_seed(stage.seed)
    model = Model.build(ArchitectureConfig(extractor=stage.architecture))
    assert model.extractor is not None
    if stage.start:
        _start_from(model.extractor, Model.load(stage.start).extractor, stage.start)
    network = model.extractor.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    samples = ViewPairs(photos, stage.views, stage.seed)
    average = train(
        network, stage.loss, samples, stage.loop, folder, minutes=minutes, report=report
    )
    trained = replace(
        model,
        extractor=average,
        provenance=_provenance((), "superpoint", stage, len(photos), folder),
    )
    trained.save(Path(folder) / "model")
    return trained


def train_superglue(
    stage: SuperGlueStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
) -> Model:
    """Train a matcher for the stage's extractor and save the pair as the model `folder/model`.

    Args and errors as in `train_superpoint`.
    """
    photos = PhotoFolder(images)
    base = Model.load(stage.extractor)
    if base.extractor is None:
        raise TrainingError(f"{stage.extractor}: a model without an extractor")
    _keep_settings(stage, folder)
    torch.manual_seed(stage.seed)
    architecture = ArchitectureConfig(extractor=base.extractor.config, matcher=stage.architecture)
    matcher = Model.build(ArchitectureConfig(matcher=architecture.matcher)).matcher
    assert matcher is not None
    if stage.start:
        _start_from(matcher, Model.load(stage.start).matcher, stage.start)
    else:
        matcher.start_from_descriptors()
    extractor = base.extractor.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    loss = SuperGlueLoss(
        extractor.requires_grad_(False),
        fewest=stage.fewest,
        most=stage.most,
        iterations=stage.sinkhorn_iterations,
    )
    samples = Scenes(photos, stage.scenes, stage.seed)
    average = train(
        matcher.to(device), loss, samples, stage.loop, folder, minutes=minutes, report=report
    )
    recipe = base.provenance.recipe
    trained = Model(
        extractor=base.extractor,
        matcher=average,
        processing=stage.processing,
        provenance=_provenance(recipe, "superglue", stage, len(photos), folder),
    )
    trained.save(Path(folder) / "model")
    return trained


def _keep_settings(stage: SuperPointStage | SuperGlueStage, folder: str | os.PathLike[str]) -> None:
    """Note a run's settings, or refuse to go on with others; more steps are allowed.

    Raises:
        TrainingError: the folder's run had other settings.
        OutputError: the folder cannot be made.
    """
    path = Path(folder) / "stage.json"
    settings = json.loads(json.dumps(to_dict(stage)))
    if path.exists() and (Path(folder) / "last.pt").exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        before["loop"]["steps"] = settings["loop"]["steps"]
        changed = [key for key in settings if before.get(key) != settings[key]]
        if changed:
            raise TrainingError(
                f"{folder}: its run had other settings ({changed[0]}); choose another folder"
            )
    write_json(path, settings)


def _start_from(network: nn.Module, trained: nn.Module | None, folder: str) -> None:
    """Copy the weights of a network of the same architecture."""
    try:
        if trained is None:
            raise TrainingError(f"{folder}: a model without this network cannot be started from")
        network.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise TrainingError(f"{folder}: a model of another architecture") from None


def _provenance(
    before: tuple[dict[str, Any], ...],
    name: StageName,
    stage: SuperPointStage | SuperGlueStage,
    photographs: int,
    folder: str | os.PathLike[str],
) -> Provenance:
    """The recipe so far, and this stage."""
    minutes = spent_seconds(folder) / 60
    settings = {
        key: value
        for key, value in to_dict(stage).items()
        if key not in ("architecture", "processing", "extractor", "data")
    }
    step = {"step": name, "photographs": photographs, "minutes": round(minutes, 1), **settings}
    return Provenance(recipe=(*before, step), data=stage.data, license=_LICENSE)

"""The common course of all training stages: settings, resume, data, loop, saving."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypedDict

import torch
from torch import nn

from featherglue.config import Provenance
from featherglue.errors import TrainingError
from featherglue.models.model import Model
from featherglue.train.engine.checkpoint import load_best
from featherglue.train.engine.distributed import ProcessGroup, join_process_group
from featherglue.train.engine.loader import Batches, Samples
from featherglue.train.engine.log_files import BEST
from featherglue.train.engine.loop import LossFunction, train
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_log import Report, Validate
from featherglue.train.engine.run_settings import check_settings
from featherglue.train.engine.schedule import check_duration
from featherglue.train.stages.stage_provenance import hardware, stage_provenance
from featherglue.train.stages.training_data import (
    LabelsConfig,
    TrainingPhotographs,
    label_fingerprint,
    read_photographs,
)
from featherglue.train.stages.validation import ValidationConfig


class StageConfig(Protocol):
    """The settings that every training stage has."""

    @property
    def loop(self) -> LoopConfig:
        """Settings of the training loop."""
        ...

    @property
    def seed(self) -> int:
        """Seed of weights and data."""
        ...

    @property
    def data(self) -> str:
        """Description of the training data for the model card."""
        ...


class RunOptions(TypedDict, total=False):
    """The keyword arguments that all training stages have; see `run_stage`.

    Attributes:
        minutes: time limit; the run can be resumed. None by default.
        device: "cpu" (default) or "cuda".
        report: called about every second with the step and the mean metrics.
    """

    minutes: float
    device: str
    report: Report


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """The device, the processes and the photographs of a run.

    Attributes:
        device: device of this process.
        group: the processes of the run.
        photographs: training and validation photographs; None if the stage uses none.
    """

    device: str
    group: ProcessGroup
    photographs: TrainingPhotographs | None

    def require_photographs(self) -> TrainingPhotographs:
        """The photographs.

        Raises:
            TrainingError: the run has none.
        """
        if self.photographs is None:
            raise TrainingError("this stage learns from photographs: pass `images`")
        return self.photographs


@dataclass(frozen=True, kw_only=True)
class TrainingTask:
    """The network, loss, data and result of a stage.

    Attributes:
        network: the network to train, on the device of the run.
        loss: returns the loss of a batch and the metrics to report.
        samples: training data.
        build: returns the model of a trained network and its provenance.
        earlier_steps: recipe steps that made the weights that the stage starts from.
        sources: folders of the models that the weights come from, for the license.
        validate: measures the averaged network; None disables validation.
        constraint: called with the network and its average after each step.
        facts: further entries of the recipe step.
    """

    network: nn.Module
    loss: LossFunction
    samples: Samples | Batches
    build: Callable[[nn.Module, Provenance], Model]
    earlier_steps: tuple[dict[str, Any], ...] = ()
    sources: tuple[str, ...] = ()
    validate: Validate | None = None
    constraint: Callable[[nn.Module], None] = lambda network: None
    facts: Mapping[str, Any] = field(default_factory=dict)


def run_stage(
    name: str,
    stage: StageConfig,
    prepare: Callable[[RunContext], TrainingTask],
    images: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    *,
    validation: ValidationConfig | None = None,
    labels: LabelsConfig | None = None,
    inputs: Mapping[str, Any] | None = None,
    minutes: float = float("inf"),
    device: str = "cpu",
    report: Report = lambda step, row: None,
) -> Model:
    """Run a training stage, or resume it, and save the model.

    The folder of the run gets `stage.json`, the checkpoints and logs of `engine.loop.train`, the
    model `model` and, after a validation, the model `best` with the best weights.

    Args:
        name: name of the stage in the recipe of the model.
        stage: its configuration.
        prepare: builds networks and data. It is called after the random numbers are seeded.
        images: folder of photographs; None for a stage that uses none.
        folder: folder of the run; a run with a checkpoint resumes.
        validation: settings of validation; `fraction` of the photographs is held out for it.
        labels: keypoint labels of the photographs; None for none.
        inputs: plain values that identify inputs of the run, such as fingerprints of models. They
            replace the settings of the same name when a run resumes.
        minutes: time limit; the run can be resumed.
        device: "cpu" or "cuda".
        report: called about every second with the step and the mean metrics.

    Raises:
        TrainingError: no usable photographs, a loss that is not finite, or a run in `folder` with
            other settings or another network.
        ImageError: the folder of photographs is missing or has no images.
        ConfigError: neither a number of steps nor a time limit is given.
        OutputError: a file cannot be written.
    """
    check_duration(stage.loop, minutes, folder)
    group, device = join_process_group(device)
    photographs = None
    if images is not None:
        fraction = 0.0 if validation is None else validation.fraction
        photographs = read_photographs(images, fraction, labels)
    check_settings(stage, folder, {**(inputs or {}), **label_fingerprint(labels)})
    torch.manual_seed(stage.seed)
    task = prepare(RunContext(device=device, group=group, photographs=photographs))
    average = train(
        task.network,
        task.loss,
        task.samples,
        stage.loop,
        folder,
        minutes=minutes,
        report=report,
        validate=task.validate,
        constraint=task.constraint,
        group=group,
    )
    facts = {} if photographs is None else {"photographs": len(photographs.training)}
    provenance = stage_provenance(
        name,
        stage,
        folder,
        earlier_steps=task.earlier_steps,
        facts={**facts, **task.facts, **hardware(device, group)},
        sources=task.sources,
    )
    return _save_models(lambda network: task.build(network, provenance), average, folder, group)


def _save_models(
    build: Callable[[nn.Module], Model],
    average: nn.Module,
    folder: str | os.PathLike[str],
    group: ProcessGroup,
) -> Model:
    """Save the averaged weights as `folder/model` and the best ones as `folder/best`."""
    trained = build(average)
    if not group.is_main:
        return trained
    trained.save(Path(folder) / "model")
    best = copy.deepcopy(average)
    if load_best(Path(folder) / BEST, best) is not None:
        build(best).save(Path(folder) / "best")
    return trained

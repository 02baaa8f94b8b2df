"""The stage "shapes": a detector learns synthetic shapes (MagicPoint, DeTone 2018, section 4)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from featherglue.config import ArchitectureConfig, Provenance, SuperPointConfig
from featherglue.data.synthetic_shapes import ShapesConfig, SyntheticShapes
from featherglue.errors import UsageError
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.losses.magicpoint_loss import ShapesLoss
from featherglue.train.stages.run_stage import RunContext, RunOptions, TrainingTask, run_stage
from featherglue.train.stages.stage_provenance import training_steps
from featherglue.train.stages.start_weights import load_start_weights

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class ShapesStage:
    """Settings of the stage "shapes".

    Attributes:
        loop: settings of the training loop.
        architecture: sizes of the extractor.
        shapes: the synthetic images.
        loss: the loss and its metrics.
        start: folder of a model whose extractor to start from; "" starts from scratch.
        seed: seed of weights and data.
        data: description of the training data for the model card.
    """

    loop: LoopConfig
    architecture: SuperPointConfig = field(default_factory=SuperPointConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    loss: ShapesLoss = field(default_factory=ShapesLoss)
    start: str = ""
    seed: int = 0
    data: str = "synthetic shapes"


def train_shapes(
    stage: ShapesStage,
    images: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str],
    **options: Unpack[RunOptions],
) -> Model:
    """Train the detector of an extractor and save it as the model `folder/model`.

    Args:
        stage: settings of the stage.
        images: None; this stage uses no photographs.
        folder: folder of the run; a run with a checkpoint resumes.
        options: see `RunOptions`.

    Raises:
        UsageError: `images` is given.
        TrainingError, ConfigError, OutputError: as `run_stage`.
    """
    if images is not None:
        raise UsageError("the stage shapes uses no photographs: leave out `images`")

    def prepare(run: RunContext) -> TrainingTask:
        network = build_extractor(stage.architecture, stage.start)
        return TrainingTask(
            network=network.to(device=run.device, memory_format=torch.channels_last),  # type: ignore[call-overload]
            loss=stage.loss,
            samples=SyntheticShapes(stage.shapes, stage.seed),
            build=extractor_model,
            earlier_steps=training_steps(stage.start, "extractor"),
            sources=(stage.start,),
        )

    return run_stage(
        "shapes",
        stage,
        prepare,
        None,
        folder,
        **options,
    )


def build_extractor(architecture: SuperPointConfig, start: str) -> SuperPoint:
    """A new extractor, with the weights of the model in the folder `start` unless it is ""."""
    network = Model.build(ArchitectureConfig(extractor=architecture)).extractor
    assert network is not None
    load_start_weights(network, start)
    return network


def extractor_model(network: nn.Module, provenance: Provenance) -> Model:
    """The model of a trained extractor."""
    assert isinstance(network, SuperPoint)
    return replace(Model(extractor=network, matcher=None), provenance=provenance)

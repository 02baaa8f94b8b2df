"""The stage "superpoint": detector and descriptors learn from pairs of views of photographs."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from featherglue.config import Provenance, SuperPointConfig
from featherglue.data.appearance import AUGMENTATIONS
from featherglue.data.scenes import SceneConfig
from featherglue.data.view_pairs import ViewPairConfig
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superpoint import SuperPoint
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.losses.superpoint_loss import DetectorLoss, SuperPointLoss
from featherglue.train.stages.run_stage import RunContext, RunOptions, TrainingTask, run_stage
from featherglue.train.stages.shapes_stage import build_extractor, extractor_model
from featherglue.train.stages.stage_provenance import training_steps
from featherglue.train.stages.training_data import (
    LabelsConfig,
    check_views,
    default_spatial_views,
    extractor_views,
    made_on_cpu,
    photographs_on_device,
)
from featherglue.train.stages.validation import ValidationConfig, make_validation

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class SuperPointStage:
    """Settings of the stage "superpoint".

    Attributes:
        loop: settings of the training loop.
        architecture: sizes of the extractor; None takes those of `start`, or the published ones.
        views: pairs of views of photographs.
        scenes: 3D scenes that replace a fraction of the pairs.
        spatial: fraction of the samples that are 3D scenes, in [0, 1].
        labels: keypoints to learn.
        loss: losses and their weights.
        validation: settings of the validation on held-out views.
        start: folder of a model whose extractor to start from, with this architecture or a smaller
            one; "" starts from scratch.
        part: "extractor" trains all layers; "detector" trains only those that the descriptors do
            not use. Descriptors then stay exactly as they are, and a matcher that was trained on
            them fits the result.
        seed: seed of weights and data.
        data: description of the photographs for the model card.

    Raises:
        ConfigError: a value is out of range, or settings exclude each other.
    """

    loop: LoopConfig
    architecture: SuperPointConfig | None = None
    views: ViewPairConfig = field(default_factory=ViewPairConfig)
    scenes: SceneConfig = field(default_factory=default_spatial_views)
    spatial: float = 0.0
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    loss: SuperPointLoss = field(default_factory=SuperPointLoss)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    start: str = ""
    part: Literal["extractor", "detector"] = "extractor"
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        check_views(self.spatial, self.scenes, self.views, self.loss)
        if self.part == "detector" and not self.start:
            raise ConfigError("part = 'detector' requires a model to start from: set start")
        if self.views.changes != tuple(AUGMENTATIONS) and not self.views.appearance:
            raise ConfigError("views.changes has no effect without views.appearance")


def train_superpoint(
    stage: SuperPointStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    **options: Unpack[RunOptions],
) -> Model:
    """Train an extractor and save it as the model `folder/model`.

    Args:
        stage: settings of the stage.
        images: folder of photographs.
        folder: folder of the run; a run with a checkpoint resumes.
        options: see `RunOptions`.

    Raises:
        TrainingError, ConfigError, ImageError, OutputError: as `run_stage`.
    """
    start = Model.load(stage.start) if stage.start else None
    sizes = None if start is None else start.architecture.extractor
    architecture = stage.architecture or sizes or SuperPointConfig()
    base = start if stage.part == "detector" else None
    if base is not None and architecture != sizes:
        raise TrainingError(
            f"{stage.start}: part = 'detector' does not change the sizes; leave out architecture"
        )

    def build(network: nn.Module, provenance: Provenance) -> Model:
        if base is None:
            return extractor_model(network, provenance)
        assert isinstance(network, SuperPoint)
        return replace(base, extractor=network, provenance=provenance)

    def prepare(run: RunContext) -> TrainingTask:
        photographs = run.require_photographs()
        network = build_extractor(architecture, stage.start)
        network = network.to(device=run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        atlas = None
        if not made_on_cpu(stage.views):
            atlas = photographs_on_device(photographs.training, run.device)
        validation = make_validation(
            photographs.held_out, stage.views.photometric_strength, stage.validation, run.device
        )
        return TrainingTask(
            network=network,
            loss=stage.loss if base is None else DetectorLoss(copy.deepcopy(network), stage.loss),
            samples=extractor_views(
                photographs.training,
                stage.views,
                stage.scenes,
                stage.spatial,
                stage.seed,
                atlas,
                stage.loop.batch_size,
            ),
            build=build,
            earlier_steps=training_steps(stage.start, "extractor"),
            sources=(stage.start,),
            validate=None if validation is None else validation.of_extractor(),
        )

    return run_stage(
        "superpoint",
        stage,
        prepare,
        images,
        folder,
        validation=stage.validation,
        labels=stage.labels,
        **options,
    )

"""The stage "superglue": a matcher learns from scenes seen by a trained extractor.

The descriptors of the extractor can learn with it.
"""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from featherglue.artifact.format import load_artifact
from featherglue.config import ArchitectureConfig, Provenance, SuperGlueConfig
from featherglue.data.real_pairs import RealPairConfig
from featherglue.data.scenes import SceneConfig
from featherglue.errors import ConfigError, TrainingError
from featherglue.models.model import Model
from featherglue.models.superglue import SuperGlue
from featherglue.models.superpoint import SuperPoint
from featherglue.options import ProcessingConfig
from featherglue.train.engine.loop_config import LoopConfig
from featherglue.train.engine.run_log import Validate
from featherglue.train.losses.end_to_end_loss import EndToEndLoss
from featherglue.train.losses.keypoint_pairs import check_keypoint_range
from featherglue.train.losses.student_teacher import Student
from featherglue.train.losses.superglue_loss import SuperGlueLoss, check_depths
from featherglue.train.stages.run_stage import RunContext, RunOptions, TrainingTask, run_stage
from featherglue.train.stages.stage_provenance import model_fingerprint, pair_steps
from featherglue.train.stages.start_weights import folded_extractor, load_start_weights
from featherglue.train.stages.training_data import (
    matcher_scenes,
    pair_fingerprint,
    photographs_on_device,
)
from featherglue.train.stages.validation import Validation, ValidationConfig, make_validation

if TYPE_CHECKING:
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True)
class SuperGlueStage:
    """Settings of the stage "superglue".

    Attributes:
        loop: settings of the training loop.
        extractor: folder of the model whose extractor finds the keypoints.
        architecture: sizes of the matcher.
        scenes: scenes of textured planes.
        pairs: pairs of real photographs that are mixed with the scenes; None for none.
        min_keypoints, max_keypoints: range of the number of keypoints per image. A number is drawn
            for each batch.
        sinkhorn_iterations: number of Sinkhorn iterations in training.
        depths: numbers of layers after which the loss is also computed.
        bf16_keypoints: run the extractor in bfloat16 if the device supports it.
        descriptor_weight: None trains the matcher only. A number also trains the layers of the
            extractor that the detector does not use; it is the weight of the dual softmax between
            the descriptors of matching keypoints, which is added to the loss of the matcher.
        processing: settings of the finished model.
        validation: settings of the validation on held-out views.
        start: folder of a model whose matcher to start from: of this architecture, a smaller one,
            or one with wider heads. "" starts from a matcher that compares descriptors.
        seed: seed of weights and data.
        data: description of the photographs for the model card.

    Raises:
        ConfigError: a value is out of range.
    """

    loop: LoopConfig
    extractor: str
    architecture: SuperGlueConfig = field(default_factory=SuperGlueConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    pairs: RealPairConfig | None = None
    min_keypoints: int = 128
    max_keypoints: int = 256
    sinkhorn_iterations: int = 20
    depths: tuple[int, ...] = ()
    bf16_keypoints: bool = False
    descriptor_weight: float | None = None
    processing: ProcessingConfig = field(default_factory=ProcessingConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    start: str = ""
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        check_depths(self.depths, len(self.architecture.layers))
        check_keypoint_range(self.min_keypoints, self.max_keypoints)
        if self.descriptor_weight is not None and not self.descriptor_weight >= 0:
            raise ConfigError(f"descriptor_weight must be at least 0, not {self.descriptor_weight}")


def train_superglue(
    stage: SuperGlueStage,
    images: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    **options: Unpack[RunOptions],
) -> Model:
    """Train a matcher and save it with its extractor as the model `folder/model`.

    Args:
        stage: settings of the stage.
        images: folder of photographs.
        folder: folder of the run; a run with a checkpoint resumes.
        options: see `RunOptions`.

    Raises:
        TrainingError: as `run_stage`; or the model of `stage.extractor` has no extractor, or the
            real pairs cannot be read.
        MissingExtraError: a package that reads the real pairs is not installed.
        ConfigError: as `run_stage`; or the matcher does not fit the extractor.
        ImageError, OutputError: as `run_stage`.
    """
    base = Model.load(stage.extractor)
    if base.extractor is None:
        raise TrainingError(f"{stage.extractor}: a model without an extractor finds no keypoints")
    pairs = pair_fingerprint(stage.pairs)

    def prepare(run: RunContext) -> TrainingTask:
        photographs = run.require_photographs()
        extractor = folded_extractor(base).to(device=run.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        validation = make_validation(
            photographs.held_out, stage.scenes.photometric_strength, stage.validation, run.device
        )
        # A GPU finds keypoints faster than the worker processes.
        finder = load_artifact(stage.extractor) if run.device == "cpu" else None
        atlas = photographs_on_device(photographs.training, run.device)
        network, loss = _network_and_loss(stage, base, extractor)
        validate = None if validation is None else _measure(stage, validation, extractor)
        return TrainingTask(
            network=network.to(run.device),
            loss=loss,
            samples=matcher_scenes(
                photographs.training,
                stage.scenes,
                stage.seed,
                atlas,
                finder,
                stage.max_keypoints,
                stage.pairs,
                keep_images=stage.descriptor_weight is not None,
            ),
            build=partial(_built, stage, base),
            earlier_steps=pair_steps(stage.extractor, stage.start),
            sources=(stage.extractor, stage.start),
            validate=validate,
            facts=pairs,
        )

    return run_stage(
        "superglue",
        stage,
        prepare,
        images,
        folder,
        validation=stage.validation,
        inputs=model_fingerprint("extractor", stage.extractor) | pairs,
        **options,
    )


def _built(stage: SuperGlueStage, base: Model, network: nn.Module, provenance: Provenance) -> Model:
    """The model of a trained network."""
    extractor = base.extractor
    matcher: nn.Module | None = network
    if isinstance(network, Student):
        extractor, matcher = network.extractor, network.matcher
    assert isinstance(matcher, SuperGlue)
    return Model(
        extractor=extractor,
        matcher=matcher,
        processing=stage.processing,
        provenance=provenance,
    )


def _network_and_loss(
    stage: SuperGlueStage, base: Model, extractor: SuperPoint
) -> tuple[SuperGlue | Student, SuperGlueLoss | EndToEndLoss]:
    """The network to train, and its loss on the keypoints of `extractor`, which it freezes."""
    matcher = _build_matcher(stage, base)
    loss = SuperGlueLoss(
        extractor.requires_grad_(False),
        min_keypoints=stage.min_keypoints,
        max_keypoints=stage.max_keypoints,
        iterations=stage.sinkhorn_iterations,
        depths=stage.depths,
        bf16=stage.bf16_keypoints,
        epipolar_weight=0.0 if stage.pairs is None else stage.pairs.epipolar_weight,
    )
    if stage.descriptor_weight is None:
        return matcher, loss
    student = Student(copy.deepcopy(base.extractor), matcher, None)
    return student, EndToEndLoss(loss, stage.descriptor_weight)


def _measure(stage: SuperGlueStage, validation: Validation, extractor: SuperPoint) -> Validate:
    """A function that measures the network, on the keypoints of `extractor` if that is frozen."""
    if stage.descriptor_weight is None:
        return validation.of_matcher(extractor)

    def measure(network: nn.Module) -> dict[str, float]:
        assert isinstance(network, Student)
        assert network.extractor is not None and network.matcher is not None
        return validation.of_matcher(network.extractor)(network.matcher)

    return measure


def _build_matcher(stage: SuperGlueStage, base: Model) -> SuperGlue:
    """A new matcher for the extractor of `base`, with its start weights."""
    # Raises if the two networks do not fit.
    replace(base.architecture, matcher=stage.architecture)
    matcher = Model.build(ArchitectureConfig(matcher=stage.architecture)).matcher
    assert matcher is not None
    if stage.start:
        load_start_weights(matcher, stage.start)
    else:
        matcher.init_from_descriptors()
    return matcher
